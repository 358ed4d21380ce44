"""Small pieces of markdown. Reports lie in `docs/action/`; links are relative, so a bundle can be moved.

What is given as a text is markdown already; texts of others come through `hostile.inline` or `hostile.code`,
values through `shown`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from urllib.parse import quote

from services.reporter.core.hostile import inline

TO_ROOT = "../../"
"""From a report to the bundle."""
LONG = 30
"""Rows from which a table is folded, so that a report of hundreds of chunks can be read."""


def number(value: object) -> str:
    """A value as plain text: four digits, `true` and `false` as in a configuration, `none` for nothing."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {number(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(number(part) for part in value)
    return str(value)


def shown(value: object) -> str:
    """A value of an event or a setting as reports show it."""
    return inline(number(value))


def link(path: str | None, text: str | None = None) -> str:
    """A link to a file of the bundle, `none` where there is none."""
    return f"[{inline(text or path)}]({TO_ROOT}{quote(path)})" if path is not None else "none"


def picture(path: str, text: str) -> str:
    """A picture of the bundle, shown in the report."""
    return f"![{text}]({TO_ROOT}{quote(path)})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table; a cell that is a text is markdown, any other is a value."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]


def long_table(head: Sequence[str], rows: Sequence[Sequence[object]], what: str) -> list[str]:
    """A table, folded if it is long; `what` a row is, for the line to open it by."""
    lines = table(head, rows)
    return folded(count_of(len(rows), what), lines) if len(rows) > LONG else lines


def bullets(items: Iterable[str], otherwise: str) -> list[str]:
    """A list, or the sentence that stands for an empty one."""
    return [f"- {item}" for item in items] or [otherwise]


def numbered(items: Iterable[str]) -> list[str]:
    """A numbered list."""
    return [f"{place}. {item}" for place, item in enumerate(items, 1)]


def count_of(count: int, what: str) -> str:
    """`1 gate`, `2 gates`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def folded(summary: str, lines: Sequence[str]) -> list[str]:
    """Lines that a reader opens when they are wanted."""
    return ["<details>", f"<summary>{summary}</summary>", "", *lines, "", "</details>"]


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if not math.isfinite(seconds) or seconds < 59.5:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def text_of(lines: Iterable[str]) -> str:
    """A report out of its lines, without two empty ones in a row."""
    whole = [
        line for empty, run in groupby(lines, lambda line: not line) for line in ([""] if empty else run)
    ]
    return "\n".join(whole).rstrip("\n") + "\n"


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else shown(value)
    return text.replace("\\|", "&#92;|").replace("|", "\\|").replace("\n", " ")
