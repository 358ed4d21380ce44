"""From the rows a chunk added to its stage's history to `HistoryStats`: numbers, no judgement."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from shared.events import HistoryStats, LossLevels
from shared.windows import windows

Column = NDArray[np.float64]

STEP, LOSS, RATE, SECONDS = "_step", "train/loss", "learning_rate/group_0", "_runtime"
UNIQUE_ACTIONS, ACTION_ENTROPY = "unique_actions", "action_entropy"
CODEBOOK_USAGE = ("train/codebook_usage", "latent_actions/codebook_usage")
REQUIRED = (STEP, LOSS)
COLUMNS = (STEP, LOSS, RATE, SECONDS, UNIQUE_ACTIONS, ACTION_ENTROPY, *CODEBOOK_USAGE)
"""What is read; other columns are left alone."""
BLOCKS, BLOCK_ROWS = 20, 5
"""Blocks of a chunk's rows, and how many rows each has at least."""
PACE_ROWS = 30
"""Updates with a time that it takes to compare a chunk's end with its beginning."""
MAD_TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""


def statistics(
    columns: Mapping[str, Column],
    *,
    file: str,
    start_step: int,
    target_step: int,
    frames_per_update: int | None = None,
) -> HistoryStats:
    """Statistics over a chunk's rows.

    Args:
        columns: Column name -> float64 [rows], at least `REQUIRED`; NaN where there is no value, infinite
            where there is one that is not finite.
        file: The history, relative to the bundle.
        start_step: First `_step` the chunk should have.
        target_step: One more than the last.
        frames_per_update: Training frames an update consumes, all ranks.
    """
    all_steps = columns[STEP][np.isfinite(columns[STEP])]
    kept = np.isfinite(columns[STEP]) & np.isfinite(columns[LOSS])
    steps, losses = columns[STEP][kept], columns[LOSS][kept]
    inside = all_steps[(all_steps >= start_step) & (all_steps < target_step)]
    broken = np.isfinite(columns[STEP]) & np.isinf(columns[LOSS])
    after = int(np.flatnonzero(kept)[-1]) + 1 if len(losses) else 0
    median_sec, slowdown = pace(columns[STEP], columns.get(SECONDS))
    return HistoryStats(
        file=file,
        rows=len(losses),
        dropped_rows=int(len(kept) - kept.sum()),
        non_finite_rows=int(broken.sum()),
        non_finite_tail=int(broken[after:].sum()),
        first_step=int(steps[0]) if len(steps) else None,
        last_step=int(steps[-1]) if len(steps) else None,
        covered_steps=len(np.unique(inside)),
        final_loss=_last(losses),
        min_loss=float(losses.min()) if len(losses) else None,
        median_loss=float(np.median(losses)) if len(losses) else None,
        loss=windows(losses) if len(losses) else None,
        levels=levels(losses),
        unique_actions=_last(columns.get(UNIQUE_ACTIONS)),
        action_entropy=_last(columns.get(ACTION_ENTROPY)),
        codebook_usage=next((v for n in CODEBOOK_USAGE if (v := _last(columns.get(n))) is not None), None),
        learning_rate=_last(columns.get(RATE)),
        frames_per_sec=_throughput(columns.get(SECONDS), frames_per_update),
        update_seconds=median_sec,
        slowdown=slowdown,
    )


def levels(values: Column) -> LossLevels | None:
    """Block medians of values without NaN; none for fewer than `BLOCKS * BLOCK_ROWS` of them.

    Median and MAD have a breakdown point of one half: up to half the rows of a block may be anything
    (Rousseeuw and Croux, Alternatives to the Median Absolute Deviation, 1993).
    """
    size = len(values) // BLOCKS
    if size < BLOCK_ROWS:
        return None
    blocks = values[len(values) - BLOCKS * size :].reshape(BLOCKS, size)  # the oldest few are left out
    medians = np.median(blocks, axis=1)
    deviations = np.median(np.abs(blocks - medians[:, None]), axis=1)
    return LossLevels(
        first=float(np.median(values[:BLOCK_ROWS])),  # an untrained model's loss falls fast
        lowest=float(medians[:-1].min()),
        last=float(medians[-1]),
        noise=MAD_TO_SIGMA * float(np.median(deviations)),
    )


def pace(steps: Column, seconds: Column | None) -> tuple[float | None, float | None]:
    """Median seconds per update, and that of the last third over that of the first; none where unknown.

    Where a relaunch set the clock or the steps back, the row is left out.
    """
    if seconds is None:
        return None, None
    known = np.isfinite(steps) & np.isfinite(seconds)
    updates, passed = np.diff(steps[known]), np.diff(seconds[known])
    forward = (updates > 0) & (passed > 0)
    each = passed[forward] / updates[forward]
    if len(each) == 0:
        return None, None
    third = len(each) // 3
    slowdown = float(np.median(each[-third:]) / np.median(each[:third])) if len(each) >= PACE_ROWS else None
    return float(np.median(each)), slowdown


def _last(column: Column | None) -> float | None:
    if column is None:
        return None
    finite = column[np.isfinite(column)]
    return float(finite[-1]) if len(finite) else None


def _throughput(seconds: Column | None, frames_per_update: int | None) -> float | None:
    """Frames per second, pauses for checkpoints included; where a relaunch set the clock back is skipped."""
    if seconds is None or frames_per_update is None:
        return None
    passed = np.diff(seconds[np.isfinite(seconds)])
    passed = passed[passed > 0]
    total = float(passed.sum())
    return len(passed) * frames_per_update / total if total > 0 else None
