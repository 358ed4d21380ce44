"""A history as columns: what the analysis keeps of its rows, 56 bytes each, however many there are.

Shapes: R rows.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.wandb_rows import STEP, Row

Column = NDArray[np.float64]

LOSS, RATE, SECONDS = "train/loss", "learning_rate/group_0", "_runtime"
CODEBOOK_USAGE, ACTION_ENTROPY, UNIQUE_ACTIONS = "codebook_usage", "action_entropy", "unique_actions"
LOGGED_AS: Mapping[str, tuple[str, ...]] = {
    LOSS: (LOSS,),
    RATE: (RATE,),
    CODEBOOK_USAGE: ("train/codebook_usage", "latent_actions/codebook_usage"),
    ACTION_ENTROPY: (ACTION_ENTROPY,),
    UNIQUE_ACTIONS: (UNIQUE_ACTIONS,),
    SECONDS: (SECONDS,),
}
"""Our name of a column -> the names it is logged under; `METRICS` come first."""
TIMESTAMP = "_timestamp"
"""W&B's clock; in a summary it tells nobody anything."""
METRICS = (LOSS, RATE, CODEBOOK_USAGE, ACTION_ENTROPY, UNIQUE_ACTIONS)
"""The columns that are analysed, in the order of reports; `SECONDS` only tells the pace."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows in the order of their steps."""

    steps: Column
    """[R], rising."""
    columns: Mapping[str, Column]
    """Names of `LOGGED_AS` -> [R]; NaN where a row has no value, infinite where it is not finite."""

    def __len__(self) -> int:
        return len(self.steps)

    def between(self, start: float, end: float) -> Table:
        """The rows with `start <= step < end`."""
        return self._where((self.steps >= start) & (self.steps < end))

    def known(self, name: str) -> tuple[Column, Column]:
        """Steps and values of a column where these are finite."""
        values = self.columns[name]
        finite = np.isfinite(values)
        return self.steps[finite], values[finite]

    def filled(self, other: Table) -> Table:
        """These rows, and those of another table whose steps are missing here."""
        return joined([self, other._where(~np.isin(other.steps, self.steps))])

    def _where(self, chosen: NDArray[np.bool_]) -> Table:
        return Table(self.steps[chosen], {name: column[chosen] for name, column in self.columns.items()})


def joined(tables: Sequence[Table]) -> Table:
    """The rows of several tables in the order of their steps; of one step, in the order given."""
    steps = np.concatenate([np.empty(0), *(table.steps for table in tables)])
    order = np.argsort(steps, kind="stable")
    columns = {
        name: np.concatenate([np.empty(0), *(table.columns[name] for table in tables)])[order]
        for name in LOGGED_AS
    }
    return Table(steps[order], columns)


EMPTY = joined([])


class Collector:
    """Takes rows as they come and keeps their numbers.

    Args:
        counts: Whether the row of a step is one that led to the stage's weights: `last` is of these.
    """

    def __init__(self, counts: Callable[[float], bool] = lambda _: True) -> None:
        self._counts = counts
        self._steps = array("d")
        self._columns = {name: array("d") for name in LOGGED_AS}
        self.last: dict[str, float] = {}
        """The last finite number under each logged name."""

    def add(self, row: Row) -> None:
        """Take a row; one without a step, or with nothing that is analysed, leaves no row."""
        step = _number(row.get(STEP))
        if not math.isfinite(step):
            return
        if self._counts(step):
            self.last.update((name, value) for name, value in row.items() if _is_summary(name, value))
        found = [
            next((_number(row[each]) for each in logged if each in row), math.nan)
            for logged in LOGGED_AS.values()
        ]
        if all(map(math.isnan, found[: len(METRICS)])):
            return
        self._steps.append(step)
        for column, value in zip(self._columns.values(), found, strict=True):
            column.append(value)

    @property
    def table(self) -> Table:
        """The rows so far."""
        own = {name: np.array(column, dtype=np.float64) for name, column in self._columns.items()}
        return joined([Table(np.array(self._steps, dtype=np.float64), own)])


def _is_summary(name: str, value: Any) -> bool:
    return isinstance(value, int | float) and name != TIMESTAMP and math.isfinite(_number(value))


def _number(value: Any) -> float:
    """A cell: NaN where there is no number, infinite where there is one that is not finite.

    W&B writes a number that is not finite as a text, our CSV as `nan` or `inf`.
    """
    if isinstance(value, str) and value not in ("NaN", "Infinity", "-Infinity"):
        return math.nan
    if value is None or isinstance(value, list | dict):
        return math.nan
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf
    return number if math.isfinite(number) else math.inf
