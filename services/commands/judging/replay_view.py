"""How a replay looks: gates side by side with what each decision rests on, as text or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from services.gatekeeper.core.replay import Replay
from shared.events import GateDecided, RunSpec


@dataclass(frozen=True, slots=True)
class Change:
    """A key that the run was decided under with another value."""

    key: str
    recorded: JsonValue
    replayed: JsonValue
    source: str
    used: bool
    """Whether it can change a gate: what was measured, when, and what came after is as recorded."""


def document(run_id: str, changes: Iterable[Change], younger: list[str], found: Replay) -> dict[str, Any]:
    """The comparison as one JSON object.

    Args:
        run_id: The run.
        changes: Keys with another value than was recorded.
        younger: What is judged by defaults, because the record does not have it.
        found: The gates; `elsewhere` marks those that the run would not have come to.
    """
    return {
        "run_id": run_id,
        "same": not any(gate.differing for gate in found.gates),
        "parting": found.parting,
        "policy": [
            {
                "key": change.key,
                "recorded": change.recorded,
                "replayed": change.replayed,
                "source": change.source,
                "used": change.used,
            }
            for change in changes
        ],
        "defaults": younger,
        "gates": [
            {
                "stage": gate.recorded.stage,
                "attempt": gate.recorded.attempt,
                "gate_step": gate.recorded.gate_step,
                "same": not gate.differing,
                "differing": list(gate.differing),
                "elsewhere": gate.elsewhere,
                "recorded": gate.recorded.model_dump(mode="json", exclude={"run_id"}),
                "replayed": gate.replayed.model_dump(mode="json", exclude={"run_id"})
                if gate.replayed is not None
                else None,
                "instead": gate.instead or None,
            }
            for gate in found.gates
        ],
    }


def lines(
    run_id: str, spec: RunSpec, changes: list[Change], younger: list[str], found: Replay
) -> Iterator[str]:
    """The comparison as a table; below a gate that differs, what each side rests on."""
    observed = ", observed only" if spec.observe else ""
    yield f"Run {run_id} (profile {spec.profile}{observed}), judged again under " + (
        "this policy:" if changes else "its own policy"
    )
    for change in changes:
        unused = "" if change.used else "; changes no gate: what was measured, and when, is as recorded"
        values = f"{_text(change.recorded)} -> {_text(change.replayed)}"
        yield f"  {change.key}  {values}  ({change.source}{unused})"
    if younger:
        names = ", ".join(key.removeprefix("policy.gatekeeper.") for key in younger)
        yield f"  today's defaults hold where the run's record has nothing: {names}"
    yield ""
    rows = [
        (
            _place(gate.recorded),
            _decision(gate.recorded),
            _decision(gate.replayed) if gate.replayed else gate.instead,
        )
        for gate in found.gates
    ]
    heads = ("gate", "recorded", "replayed")
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(2)]
    yield f"{heads[0]:<{widths[0]}}  {heads[1]:<{widths[1]}}  {heads[2]}"
    parted = False
    for row, gate in zip(rows, found.gates, strict=True):
        if gate.elsewhere and not parted:
            parted = True
            yield f"--- the run would have gone elsewhere {found.parting}"
            yield "--- below: judged as recorded, had the run been there"
        same = not gate.differing
        yield f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {'the same' if same else row[2]}"
        if not same:
            yield f"    recorded: {_why(gate.recorded)}"
            if gate.replayed is not None:
                yield f"    replayed: {_why(gate.replayed)}"
    yield ""
    yield _summary(found)


def _summary(found: Replay) -> str:
    differing = sum(bool(gate.differing) for gate in found.gates)
    if not found.gates:
        return "No gate was decided in this run."
    total = f"{len(found.gates)} gates"
    if not differing:
        return f"{total}, every one decided the same."
    elsewhere = sum(gate.elsewhere for gate in found.gates)
    tail = f"; {elsewhere} of the gates lie where the run would not have gone" if elsewhere else ""
    return f"{total}, {differing} decided otherwise{tail}."


def _place(gate: GateDecided) -> str:
    return f"{gate.stage} {gate.attempt} at {gate.gate_step}"


def _decision(gate: GateDecided) -> str:
    """Decision, verdict, reason and patch; of a run that was only observed, what would have been done."""
    withheld = gate.observed
    patch = gate.config_patch_applied if withheld is None else withheld.config_patch
    decision = gate.decision if withheld is None else f"{gate.decision} (would {withheld.decision})"
    knobs = ", ".join(f"{key}={_text(value)}" for key, value in patch.items())
    return " | ".join((decision, gate.verdict, gate.reason, *([knobs] if knobs else [])))


def _why(gate: GateDecided) -> str:
    """What failed, where training goes on, and what is left of the budget."""
    failed = "; ".join(reason.text for reason in gate.reasons if not reason.ok) or "every check passed"
    budget = f"retries {gate.retries_used} of {gate.retries_max}, restarts {gate.restarts_used}"
    if gate.decision == "stop":
        return f"{failed}. Stops ({budget})"
    if gate.next_target_step is None:
        return f"{failed}. Nothing is left to train ({budget})"
    start = f"from {gate.resume_from.rpartition('/')[2]}" if gate.resume_from else "from the beginning"
    return f"{failed}. Goes on {start} to {gate.next_target_step} of {gate.target_step} ({budget})"


def _text(value: JsonValue) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
