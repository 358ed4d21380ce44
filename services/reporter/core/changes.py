"""What changed between the plans of a stage, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pydantic import JsonValue

from services.reporter.core.hostile import inline
from services.reporter.core.markdown import shown
from services.reporter.core.story import Attempt, Story
from shared.config import StageConfig
from shared.events import STAGES, ChunkPlan, GateDecided, OperatorRequested, Stage

PEAK, END, BATCH = "schedule.peak", "schedule.end_step", "effective batch"
ASKED = "the operator asked"
FOLLOWS = {PEAK: "learning_rate", END: "target", "n_updates": "target"}
"""A value -> the rung that moves it."""


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs from the plan before."""

    stage: Stage
    attempt: int
    """The first attempt with the new value."""
    key: str
    before: JsonValue
    after: JsonValue
    why: str
    """Which gate or operator, and what failed there."""
    rung: str
    """Rung of the ladder; empty where none was climbed."""


def changes(story: Story) -> list[Change]:
    """Changed parameters, learning-rate peaks and effective batches of all stages, in order."""
    return [change for stage in STAGES for change in _of_stage(story, list(story.of(stage)))]


def effective_batch(plan: ChunkPlan) -> int:
    """Windows per update, all ranks and micro-batches."""
    return StageConfig.recorded(plan.parameters).effective_batch


def failed_text(gate: GateDecided, *, most: int | None = None) -> str:
    """What failed at a gate, as markdown: each number against its limit, or only the first of them."""
    failed = [
        f"{inline(reason.name)} {shown(reason.value)} against {shown(reason.threshold)}"
        for reason in gate.reasons
        if not reason.ok
    ]
    more = len(failed) - len(failed[:most])
    return "; ".join(failed[:most]) + (f"; {more} more" if more else "")


def _of_stage(story: Story, attempts: Sequence[Attempt]) -> list[Change]:
    found = []
    for before, after in pairwise([attempt for attempt in attempts if attempt.starts]):
        plan = after.starts[0].plan
        old, new = _values(before.starts[0].plan), _values(plan)
        for key in dict.fromkeys((*old, *new)):
            if old.get(key) != new.get(key):
                why, rung = _why(story, before, after, key)
                found.append(Change(plan.stage, plan.attempt, key, old.get(key), new.get(key), why, rung))
    return found


def _values(plan: ChunkPlan) -> dict[str, JsonValue]:
    schedule: dict[str, JsonValue] = {PEAK: plan.schedule.peak, END: plan.schedule.end_step}
    return plan.parameters | schedule | {BATCH: effective_batch(plan)}


def _why(story: Story, before: Attempt, after: Attempt, key: str) -> tuple[str, str]:
    """Who changed it, and the rung: the newest of those that could have, between the two plans."""
    if key == BATCH:
        return "follows from the batch, its accumulation and the processes", ""
    knob = FOLLOWS.get(key, key)
    found: tuple[str, str] = ("", "")
    for gate in [before.gate, *_tests_between(story, before, after)]:
        if gate is None:
            continue
        patch = gate.config_patch_applied | gate.config_patch_on_resume
        if knob in patch or knob in gate.ladder or (gate.stage == "inference" and key in FOLLOWS):
            failed = failed_text(gate, most=1)
            name = (
                f"inference try {gate.attempt}"
                if gate.stage == "inference"
                else f"gate of attempt {gate.attempt}"
            )
            why = f"{inline(gate.reason)}{f' ({failed})' if failed else ''}"
            found = f"{name} at update {gate.gate_step}: {why}", knob if knob in gate.ladder else ""
    for request in _wishes_between(story, before, after):
        if knob in _wished(request):
            found = ASKED, ""
    return found


def _tests_between(story: Story, before: Attempt, after: Attempt) -> list[GateDecided]:
    first, last = before.decided, after.began
    if first is None or last is None:
        return []
    return [gate for time, gate in story.decisions if gate.stage == "inference" and first <= time <= last]


def _wishes_between(story: Story, before: Attempt, after: Attempt) -> list[OperatorRequested]:
    first, last = before.began, after.began
    if first is None or last is None:
        return []
    return [
        event
        for time, event in story.requests
        if isinstance(event, OperatorRequested) and event.request == "retune_run" and first <= time <= last
    ]


def _wished(request: OperatorRequested) -> dict[str, JsonValue]:
    wished = request.arguments.get("changes")
    return wished if isinstance(wished, dict) else {}
