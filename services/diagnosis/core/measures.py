"""Numbers of a stage's whole history: how pieces become one, spans, thirds, correlations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from services.diagnosis.core.model import ActionNumbers
from services.monitor.core.history import (
    ACTION_ENTROPY,
    CODEBOOK_USAGE,
    LOSS,
    REQUIRED,
    SECONDS,
    STEP,
    UNIQUE_ACTIONS,
    Column,
    statistics,
)
from shared.events import HistoryStats

Columns = Mapping[str, Column]
ENOUGH = 10
"""Rows that a correlation, or a third of a history, needs."""


def stitch(pieces: Sequence[Columns]) -> dict[str, Column]:
    """One history of several: each piece replaces what earlier ones have from its first step on.

    That is what training did when it went back to a checkpoint.

    Args:
        pieces: In the order in which they were written.
    """
    kept: list[Columns] = []
    before = np.inf
    for piece in reversed(pieces):
        steps = piece[STEP]
        kept.insert(0, {name: column[steps < before] for name, column in piece.items()})
        before = float(np.min(steps, where=np.isfinite(steps), initial=before))
    names = dict.fromkeys([*REQUIRED, *(name for piece in kept for name in piece)])
    return {
        name: np.concatenate([piece.get(name, np.full(len(piece[STEP]), np.nan)) for piece in kept])
        for name in names
    }


def stats(columns: Columns) -> HistoryStats:
    """The monitor's statistics over all rows, as of one chunk; some row has a step."""
    steps = columns[STEP][np.isfinite(columns[STEP])]
    return statistics(columns, file="history", start_step=int(steps.min()), target_step=int(steps.max()) + 1)


def thirds(columns: Columns) -> list[dict[str, Column]]:
    """The middle and the last third of the rows with a step; the whole where thirds would be too short."""
    rows = np.flatnonzero(np.isfinite(columns[STEP]))
    size = len(rows) // 3
    pieces = [rows[-2 * size : -size], rows[-size:]] if size >= ENOUGH else [rows]
    return [{name: column[piece] for name, column in columns.items()} for piece in pieces if len(piece)]


def codebook(columns: Columns) -> Column | None:
    """The codebook usage, whichever name it was logged under."""
    found = [columns[name] for name in CODEBOOK_USAGE if name in columns]
    return next((column for column in found if np.isfinite(column).any()), None)


def early_and_late(column: Column | None) -> tuple[float | None, float | None]:
    """Means of the first and the last third of the values there are."""
    values = _values(column)
    third = max(1, len(values) // 3)
    return (float(values[:third].mean()), float(values[-third:].mean())) if len(values) else (None, None)


def actions(columns: Columns) -> ActionNumbers | None:
    """How actions are used; none where no action column has a value."""
    unique = _values(columns.get(UNIQUE_ACTIONS))
    entropy = _values(columns.get(ACTION_ENTROPY))
    usage = codebook(columns)
    if not len(unique) and not len(entropy):
        return None
    early, late = early_and_late(usage)
    at_one = unique <= 1
    return ActionNumbers(
        unique_last=float(unique[-1]) if len(unique) else None,
        unique_mean=float(unique.mean()) if len(unique) else None,
        share_at_one=float(at_one.mean()) if len(unique) else None,
        longest_at_one=longest(at_one) / len(unique) if len(unique) else None,
        entropy_last=float(entropy[-1]) if len(entropy) else None,
        entropy_late=early_and_late(entropy)[1],
        codebook_early=early,
        codebook_late=late,
    )


def longest(flags: NDArray[np.bool_]) -> int:
    """Length of the longest unbroken span of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def correlation(columns: Columns, name: str) -> float | None:
    """Pearson's correlation of the loss with a column; none for too few rows or where one does not vary."""
    other = columns.get(name)
    if other is None:
        return None
    both = np.isfinite(columns[LOSS]) & np.isfinite(other)
    losses, others = columns[LOSS][both], other[both]
    if len(losses) < ENOUGH or np.ptp(losses) == 0 or np.ptp(others) == 0:
        return None
    return float(np.corrcoef(losses, others)[0, 1])


def updates_per_sec(columns: Columns) -> float | None:
    """Updates per second by the history's clock; where a relaunch set it or the steps back is skipped."""
    seconds = columns.get(SECONDS)
    if seconds is None:
        return None
    known = np.isfinite(columns[STEP]) & np.isfinite(seconds)
    passed, updates = np.diff(seconds[known]), np.diff(columns[STEP][known])
    forward = (passed > 0) & (updates > 0)
    total = float(passed[forward].sum())
    return float(updates[forward].sum()) / total if total > 0 else None


def _values(column: Column | None) -> Column:
    return column[np.isfinite(column)] if column is not None else np.empty(0)
