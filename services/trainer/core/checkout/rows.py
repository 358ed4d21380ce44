"""Rows as a checkout logs them to W&B, put under absolute steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

Row = dict[str, float]

STEP, LOSS, RATE = "_step", "train/loss", "learning_rate/group_0"
OWN_STEP = "step"
"""Column in which older scripts log the update, where W&B counts calls."""
RUNTIME = "_runtime"
"""The one column of W&B's own that is kept: seconds since the launch's first row."""


def by_update(
    logged: Iterable[Mapping[str, Any]], offset: int, *, first: int, end: int, loss_factor: int = 1
) -> dict[int, Row]:
    """One row for each update, oldest first.

    Args:
        logged: Rows as W&B has them; several may belong to one update.
        offset: Added to a logged step, it gives the absolute one.
        first: Absolute step of the launch's first update; rows before it are left out.
        end: One more than that of its last update; later rows are left out.
        loss_factor: The loss is multiplied by it.
    """
    found: dict[int, Row] = {}
    for logged_row in logged:
        step = _number(logged_row.get(OWN_STEP, logged_row.get(STEP)))
        if step is None or not first <= step + offset < end:
            continue
        at = int(step) + offset
        row = found.setdefault(at, {STEP: at})
        for name, value in logged_row.items():
            ours = name == RUNTIME or not (name == OWN_STEP or name.startswith("_"))
            if ours and (number := _number(value)) is not None:
                row[name] = number * loss_factor if name == LOSS else number
    return dict(sorted(found.items()))


def diverged(rows: Iterable[Row]) -> bool:
    """Whether a loss is not finite; from then on no weight is either."""
    return any(not math.isfinite(row[LOSS]) for row in rows if LOSS in row)


def _number(value: Any) -> float | None:
    """A logged value as a number; W&B writes one that is not finite as text. None for anything else."""
    if isinstance(value, bool | int | float) or value in ("NaN", "Infinity", "-Infinity"):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return None
