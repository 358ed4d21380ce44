"""What changed between the plans of a stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pydantic import JsonValue

from services.reporter.core.story import Attempt
from shared.config import StageConfig
from shared.events import ChunkPlan, Stage


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs from the plan before."""

    stage: Stage
    attempt: int
    """The first attempt with the new value."""
    key: str
    before: JsonValue
    after: JsonValue


def changes(attempts: Sequence[Attempt]) -> list[Change]:
    """Changed parameters, learning-rate peaks and effective batches over a stage's attempts, in order."""
    plans = [attempt.starts[0].plan for attempt in attempts if attempt.starts]
    found = []
    for before, after in pairwise(plans):
        old, new = _values(before), _values(after)
        found += [
            Change(after.stage, after.attempt, key, old.get(key), new.get(key))
            for key in dict.fromkeys((*old, *new))
            if old.get(key) != new.get(key)
        ]
    return found


def effective_batch(plan: ChunkPlan) -> int:
    """Windows per update, all ranks and micro-batches."""
    return StageConfig.model_validate(plan.parameters).effective_batch


def _values(plan: ChunkPlan) -> dict[str, JsonValue]:
    peak: dict[str, JsonValue] = {
        "schedule.peak": plan.schedule.peak,
        "schedule.end_step": plan.schedule.end_step,
    }
    return plan.parameters | peak | {"effective batch": effective_batch(plan)}
