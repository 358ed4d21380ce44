"""Thins a stage's history for display: buckets of equally many updates, each with mean, low and high. Pure.

Shapes: N rows of an attempt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.reporter.core.page.model import Curve

Steps = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rows:
    """A column of one attempt."""

    attempt: int
    steps: Steps
    """Updates done, rising, [N]."""
    values: Values
    """NaN or infinite where there is no number, [N]."""

    def between(self, start: int | None, end: int | None) -> Rows:
        """The rows from one step to another, both included; no limit where none is given."""
        low = 0 if start is None else int(np.searchsorted(self.steps, start, "left"))
        high = len(self.steps) if end is None else int(np.searchsorted(self.steps, end, "right"))
        return Rows(self.attempt, self.steps[low:high], self.values[low:high])


def thin(attempts: Sequence[Rows], superseded: Mapping[int, int | None], points: int) -> list[Curve]:
    """Curves of at most `points` points together; at least one for each attempt that has rows.

    A bucket holds as many updates in all attempts, and none holds updates of two.

    Args:
        attempts: What to show.
        superseded: Attempt -> from which update on it was rolled back.
        points: How many may be shown.
    """
    shown = [rows for rows in attempts if len(rows.steps)]
    if not shown:
        return []
    spans = [int(rows.steps[-1] - rows.steps[0]) + 1 for rows in shown]
    width = _width(spans, points)
    return [_curve(rows, width, superseded.get(rows.attempt)) for rows in shown]


def _width(spans: Sequence[int], points: int) -> int:
    """Updates in a bucket, so that all buckets together are no more than the points."""
    whole = sum(spans)
    if whole <= points:
        return 1
    if points <= len(spans):
        return max(spans)
    return -(-whole // (points - len(spans)))  # each attempt's last bucket may be a short one


def _curve(rows: Rows, width: int, superseded_from: int | None) -> Curve:
    steps, values = rows.steps, np.where(np.isfinite(rows.values), rows.values, np.nan)
    bucket = (steps - steps[0]) // width
    begins = np.flatnonzero(np.diff(bucket, prepend=-1))
    ends = np.append(begins[1:], len(steps)) - 1
    there = np.isfinite(values)
    counts = np.add.reduceat(there, begins, dtype=np.int64)
    sums = np.add.reduceat(np.where(there, values, 0.0), begins)
    mean = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    return Curve(
        attempt=rows.attempt,
        superseded_from=superseded_from,
        step=((steps[begins] + steps[ends]) // 2).tolist(),
        mean=_numbers(mean),
        low=_numbers(np.fmin.reduceat(values, begins)),
        high=_numbers(np.fmax.reduceat(values, begins)),
    )


def _numbers(values: npt.NDArray[Any]) -> list[float | None]:
    return [float(f"{value:.6g}") if value == value else None for value in values.tolist()]
