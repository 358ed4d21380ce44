"""Which checkpoints of a stage belong to its present, and which may go."""

from __future__ import annotations

from collections.abc import Iterable, Set

from shared.events import CheckpointInfo, ChunkPlan


def resume_point(plan: ChunkPlan, found: Iterable[CheckpointInfo]) -> tuple[str | None, int]:
    """Where a plan goes on that was begun before: the newest valid checkpoint it has come to.

    What lay beyond the plan's start was moved away before its first launch: what lies there now is its own.

    Args:
        plan: The plan.
        found: The checkpoints of its stage.

    Returns:
        Path of the checkpoint (none: a fresh start) and the updates done in it.
    """
    own = [
        each
        for each in found
        if each.valid and plan.start_step < each.step <= plan.target_step + plan.overshoot
    ]
    newest = max(own, key=lambda each: each.step, default=None)
    return (newest.path, newest.step) if newest else (plan.resume_from, plan.start_step)


def disposable(found: Iterable[CheckpointInfo], *, keep_last: int, keep: Set[str]) -> list[str]:
    """Paths of the checkpoints that retention deletes.

    Args:
        found: The stage's lineage.
        keep_last: How many of the newest valid ones stay.
        keep: Paths that something refers to: accepted gates, plans, selections.

    Returns:
        What is older than the newest valid ones and that nobody names.
    """
    found = list(found)
    newest = sorted(each.step for each in found if each.valid)[-keep_last:]
    if len(newest) < keep_last:
        return []
    return [each.path for each in found if each.step < newest[0] and each.path not in keep]
