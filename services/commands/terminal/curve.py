"""A loss curve as characters: two by four braille dots a cell, what was rolled back as single points.

The rows of a history come thinned out (`History`); each attempt is a line of its own. Below the curve stand
the stage's gates, at the update they judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.text import Text

from services.commands.terminal.text import BAD, DIM, GOOD, Signs, number
from services.reporter.core.page.model import GateRow, History

LABEL = 9
"""Cells left of the curve."""
LOG_FROM = 20.0
"""Highest over lowest loss from which the scale is logarithmic."""
BASE = 0x2800
DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bit of a dot within its cell, by column and row."""

Point = tuple[int, float]


def split(history: History) -> tuple[list[list[Point]], list[list[Point]]]:
    """The attempts' points (step, mean) that hold, and those that were rolled back."""
    hold: list[list[Point]] = []
    old: list[list[Point]] = []
    for curve in history.curves:
        points = [
            (step, mean)
            for step, mean in zip(curve.step, curve.mean, strict=True)
            if mean is not None and math.isfinite(mean)
        ]
        limit = math.inf if curve.superseded_from is None else curve.superseded_from
        hold.append([point for point in points if point[0] <= limit])
        old.append([point for point in points if point[0] > limit])
    return hold, old


def draw(history: History, gates: Iterable[GateRow], *, width: int, height: int, signs: Signs) -> list[Text]:
    """The curve, its gates and its axis: `height` lines, at least 3, of at most `width` cells, at least 20.

    Nothing where the history has no finite loss.
    """
    hold, old = split(history)
    points = [point for each in (*hold, *old) for point in each]
    if not points or height < 3 or width < 20:
        return []
    rows, cells = height - 2, width - LABEL
    low, high = min(value for _, value in points), max(value for _, value in points)
    scale = Scale(low, high, history.first, history.last, columns=2 * cells, rows=4 * rows)
    dots: dict[tuple[int, int], int] = {}
    for line in hold:
        for x, y in scale.line(line):
            cell = (y // 4, x // 2)
            dots[cell] = dots.get(cell, 0) | DOTS[x % 2][y % 4]
    gone = {(y // 4, x // 2) for line in old for x, y in scale.line(line)}
    shown = {0, rows - 1} | ({rows // 2} if rows >= 5 else set())
    labels = {row: number(scale.value(4 * row + (0, 3)[row == rows - 1]), 3) for row in shown}
    lines = []
    for row in range(rows):
        line_text = Text(f"{labels.get(row, ''):>{LABEL - 1}} ", style=DIM)
        for column in range(cells):
            bits = dots.get((row, column), 0)
            if bits:
                line_text.append(signs.point or chr(BASE + bits), style="cyan")
            else:
                line_text.append(signs.old if (row, column) in gone else " ", style=DIM)
        lines.append(line_text)
    return [*lines, _marks(gates, scale, cells, signs), _axis(scale, cells)]


class Scale:
    """Where a point lies among the dots: columns from the left, rows from the top.

    Args:
        low: Lowest value.
        high: Highest value.
        first: Lowest step.
        last: Highest step.
        columns: Dots across.
        rows: Dots down.
    """

    def __init__(self, low: float, high: float, first: int, last: int, *, columns: int, rows: int) -> None:
        self.log = low > 0 and high / low >= LOG_FROM
        self.first, self.last, self.columns, self.rows = first, last, columns, rows
        self._low, self._high = (math.log(low), math.log(high)) if self.log else (low, high)

    def x(self, step: int) -> int:
        """The column of a step."""
        share = (step - self.first) / max(1, self.last - self.first)
        return round(min(1.0, max(0.0, share)) * (self.columns - 1))

    def y(self, value: float) -> int:
        """The row of a value."""
        span = self._high - self._low
        share = ((math.log(value) if self.log else value) - self._low) / span if span else 0.5
        return round((1 - share) * (self.rows - 1))

    def value(self, y: int) -> float:
        """The value of a row."""
        found = self._low + (1 - y / max(1, self.rows - 1)) * (self._high - self._low)
        return math.exp(found) if self.log else found

    def line(self, points: Sequence[Point]) -> list[tuple[int, int]]:
        """The dots of a line: one mean a column, joined up and down."""
        sums: dict[int, tuple[float, int]] = {}
        for step, value in points:
            total, count = sums.get(self.x(step), (0.0, 0))
            sums[self.x(step)] = (total + value, count + 1)
        heights = {x: self.y(total / count) for x, (total, count) in sums.items()}
        found: list[tuple[int, int]] = []
        before: int | None = None
        for x in sorted(heights):
            y = heights[x]
            start = y if before is None or before == y else before + (1 if y > before else -1)
            found += [(x, each) for each in range(min(start, y), max(start, y) + 1)]
            before = y
        return found


def _marks(gates: Iterable[GateRow], scale: Scale, cells: int, signs: Signs) -> Text:
    marks = {
        scale.x(gate.step) // 2: gate for gate in gates if scale.first <= gate.step <= scale.last
    }  # the newest of those that fall on one cell
    line = Text(f"{'gates':>{LABEL - 1}} ", style=DIM)
    for column in range(cells):
        gate = marks.get(column)
        if gate is None:
            line.append(" ")
        else:
            line.append(signs.yes if gate.accepted else signs.no, style=GOOD if gate.accepted else BAD)
    return line


def _axis(scale: Scale, cells: int) -> Text:
    first, last = str(scale.first), str(scale.last)
    gap = max(1, cells - len(first) - len(last))
    return Text(f"{'update':>{LABEL - 1}} {first}{' ' * gap}{last}", style=DIM)
