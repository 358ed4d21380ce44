"""Figures of a column: last, extremes, thirds, first against last 10 %, rolling mean; fewer points to draw.

Shapes: R rows, P points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.reporter.core.wandb.table import SECONDS, Column, Table
from shared.windows import windows

WINDOW_SHARE, LEAST_WINDOW = 50, 5
"""A rolling mean is over one row in so many of a stage, and at least over so many rows."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One column over the rows that count and have a finite value."""

    rows: int
    first_step: int
    last_step: int
    final: float
    lowest: float
    lowest_step: int
    highest: float
    mean: float
    early: float
    mid: float
    late: float
    """Means of the thirds, as at gates, here over the whole stage."""
    first10: float
    last10: float
    """Means of the first and last 10 % of the rows, at least one."""
    delta: float
    """`last10 - first10`: a rising loss is positive."""


def figures(table: Table, name: str) -> Figures | None:
    """Figures of a column; none if no row has a finite value."""
    steps, values = table.known(name)
    if not len(values):
        return None
    lowest = int(values.argmin())
    return Figures(
        rows=len(values),
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
        final=float(values[-1]),
        lowest=float(values[lowest]),
        lowest_step=int(steps[lowest]),
        highest=float(values.max()),
        mean=float(values.mean()),
        **windows(values).model_dump(),
    )


def updates_per_second(table: Table) -> float | None:
    """Median pace; where the clock or the steps were set back, as at a new launch, is left out."""
    steps, seconds = table.known(SECONDS)
    updates, passed = np.diff(steps), np.diff(seconds)
    forward = (updates > 0) & (passed > 0)
    return float(np.median(updates[forward] / passed[forward])) if forward.any() else None


def window(rows: int) -> int:
    """Rows of the rolling mean over a history."""
    return max(LEAST_WINDOW, rows // WINDOW_SHARE)


def rolling_mean(values: Column, size: int) -> Column:
    """Mean of each value and up to `size - 1` before it: [R] -> [R]."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - size)
    means: Column = (sums[ends] - sums[begins]) / (ends - begins)
    return means


@dataclass(frozen=True, slots=True)
class Outline:
    """A curve as it is drawn: [P] each, the extremes of each stretch, so that no spike is lost."""

    steps: Column
    low: Column
    high: Column


def outline(steps: Column, values: Column, points: int) -> Outline:
    """At most `points` stretches of a curve: [R] -> [P]; with that few rows, the rows."""
    if len(values) <= points:
        return Outline(steps, values, values)
    begins = np.linspace(0, len(values), points, endpoint=False).astype(np.int64)
    return Outline(steps[begins], np.minimum.reduceat(values, begins), np.maximum.reduceat(values, begins))


def thinned(steps: Column, values: Column, points: int) -> tuple[Column, Column]:
    """At most `points` of a smooth curve's points, the last one always among them."""
    if len(values) <= points:
        return steps, values
    chosen = np.linspace(0, len(values) - 1, points).astype(np.int64)
    return steps[chosen], values[chosen]
