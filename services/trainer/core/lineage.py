"""Which checkpoints of a stage belong to its present, and which may go."""

from __future__ import annotations

from collections.abc import Iterable, Set

from shared.events import (
    CheckpointInfo,
    ChunkPlan,
    ChunkStarted,
    GateDecided,
    InferenceDone,
    Message,
    RunStarted,
    StageStarted,
)


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


def named(message: Message) -> set[str]:
    """Checkpoints that an event of a run rests on or goes on from: retention keeps them.

    Accepted gates' and best ones, where plans began, what later stages and inference tests used.
    """
    found: set[str | None] = set()
    match message:
        case RunStarted(spec=spec):
            found = {*spec.checkpoints.values()}
        case StageStarted(resume_from=start):
            found = {start}
        case ChunkStarted(plan=plan):
            found = {plan.resume_from, *plan.upstream.values()}
        case GateDecided() as gate:
            found = {gate.accepted_checkpoint, gate.best_checkpoint, gate.resume_from}
        case InferenceDone(checkpoints=used):
            found = {*used.values()}
        case _:
            pass
    return {path for path in found if path is not None}


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
