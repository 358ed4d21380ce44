"""When a stage's checkpoints are in trouble: many of them empty, or none valid that is new enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.monitor.core.chunks import Chunk
from shared.events import AlertRaised

LARGE_FILES = ("model_state_dict.pt", "optim_state_dict.pt")
FILES = (*LARGE_FILES, "state.pt")
TINY = 1024
"""As in `shared.worldmodel.checkpoints`, which needs torch; a test holds them together."""
STALE_INTERVALS = 3
MANY_EMPTY, FEW = 0.2, 3
EMPTY, STALE = "checkpoints_empty", "checkpoints_stale"
"""Channels of the alerts."""


@dataclass(frozen=True, slots=True)
class Look:
    """A checkpoint directory from outside: its files are not read."""

    path: str
    step: int
    """Updates done."""
    empty: str | None
    """Which model or optimizer file is missing or tiny; none if neither is."""
    whole: bool
    """All files are there, and the large ones are large enough to hold something."""


def empty_problem(sizes: Mapping[str, int]) -> str | None:
    """Why a checkpoint with files of these sizes (bytes) holds nothing; none if it may hold something."""
    for name in LARGE_FILES:
        if sizes.get(name, 0) <= TINY:
            return f"{name} has only {sizes[name]} bytes" if name in sizes else f"{name} is missing"
    return None


def many_empty(empty: int, total: int) -> bool:
    """Whether so many empty checkpoints of all are no accident."""
    return empty >= FEW and empty >= MANY_EMPTY * total


def too_far_behind(behind: int, interval: int) -> bool:
    """Whether the newest valid checkpoint lies too many updates back.

    Args:
        behind: Updates since it.
        interval: Updates between checkpoints.
    """
    return behind > STALE_INTERVALS * interval


def troubles(seen: Sequence[Look], *, start: int, step: int, interval: int) -> dict[str, str]:
    """What is wrong with the checkpoints of a chunk's stage: channel -> a sentence with value and limit.

    Args:
        seen: Oldest first, less those that are being written.
        start: Updates done when the chunk began: its own checkpoint may lie elsewhere.
        step: Updates done now.
        interval: Updates between checkpoints.
    """
    found = {}
    empty = [each for each in seen if each.empty is not None]
    if many_empty(len(empty), len(seen)):
        found[EMPTY] = (
            f"{len(empty)} of {len(seen)} checkpoints are empty or tiny (limit {MANY_EMPTY:.0%} and {FEW}), "
            f"the newest of them {empty[-1].path}: {empty[-1].empty}"
        )
    newest = max((each.step for each in seen if each.whole), default=0)
    behind = step - max(newest, start)
    if too_far_behind(behind, interval):
        last = (
            f"the newest whole checkpoint is of step {newest}" if newest else "there is no whole checkpoint"
        )
        found[STALE] = (
            f"{last}, {behind} updates without one at step {step}, more than {STALE_INTERVALS} log intervals "
            f"of {interval}"
        )
    return found


def trouble_alerts(chunk: Chunk, found: Mapping[str, str]) -> list[AlertRaised]:
    """The alerts that are due for a running chunk: one per channel, until what it is about is over.

    Args:
        chunk: Knows what was alerted before; forgets what is over.
        found: Of `troubles`.
    """
    for channel in (EMPTY, STALE):
        if channel not in found:
            chunk.alerted.pop(channel, None)
    return [
        AlertRaised(
            run_id=chunk.first.run_id,
            stage=chunk.first.stage,
            attempt=chunk.first.attempt,
            channel=channel,
            silence_sec=0,
            limit_sec=0,
            detail=text,
            ordinal=chunk.alerts.get(channel, 0) + 1,
        )
        for channel, text in found.items()
        if channel not in chunk.alerted
    ]
