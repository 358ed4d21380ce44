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
    """Curves of at most `points` points together.

    A bucket holds as many updates in all attempts, and none holds updates of two. Where there are more
    attempts than points, some are left out evenly; the first and the last stay.

    Args:
        attempts: What to show.
        superseded: Attempt -> from which update on it was rolled back.
        points: How many may be shown.
    """
    shown = _evenly([rows for rows in attempts if len(rows.steps)], points)
    if not shown:
        return []
    counts = [len(rows.steps) for rows in shown]
    firsts = np.array([rows.steps[0] for rows in shown])
    width = _width([int(rows.steps[-1] - rows.steps[0]) + 1 for rows in shown], points)
    steps, values = np.concatenate([rows.steps for rows in shown]), np.concatenate([r.values for r in shown])
    begins = _begins((steps - np.repeat(firsts, counts)) // width, np.cumsum([0, *counts[:-1]]))
    ends = np.append(begins[1:], len(steps)) - 1
    there = np.isfinite(values)
    numbers = np.add.reduceat(there, begins, dtype=np.int64)
    sums = np.add.reduceat(np.where(there, values, 0.0), begins)
    finite = np.where(there, values, np.nan)
    middle = ((steps[begins] + steps[ends]) // 2).tolist()
    mean = _numbers(np.divide(sums, numbers, out=np.full(len(begins), np.nan), where=numbers > 0))
    low, high = (_numbers(extreme.reduceat(finite, begins)) for extreme in (np.fmin, np.fmax))
    edges = np.searchsorted(begins, np.cumsum([0, *counts])).tolist()
    return [
        Curve(
            attempt=rows.attempt,
            superseded_from=superseded.get(rows.attempt),
            step=middle[left:right],
            mean=mean[left:right],
            low=low[left:right],
            high=high[left:right],
        )
        for rows, left, right in zip(shown, edges, edges[1:], strict=False)
    ]


def _evenly(attempts: Sequence[Rows], count: int) -> Sequence[Rows]:
    if len(attempts) <= count:
        return attempts
    return [attempts[at] for at in np.linspace(0, len(attempts) - 1, count).astype(int)]


def _width(spans: Sequence[int], points: int) -> int:
    """Updates in a bucket, so that all buckets together are no more than the points."""
    whole = sum(spans)
    if whole <= points:
        return 1
    if points <= len(spans):
        return max(spans)
    return -(-whole // (points - len(spans)))  # each attempt's last bucket may be a short one


def _begins(buckets: Steps, starts: Steps) -> Steps:
    """Where a bucket begins: at its number's first row, and at each attempt's, [buckets]."""
    new = np.diff(buckets, prepend=-1) != 0
    new[starts] = True
    return np.flatnonzero(new)


def _numbers(values: npt.NDArray[Any]) -> list[float | None]:
    return [float(f"{value:.6g}") if value == value else None for value in values.tolist()]
