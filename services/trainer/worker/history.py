"""The rows an attempt writes: one CSV, cut back to the checkpoint it goes on from."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from shared.bundle import write_atomic

STEP, RUNTIME = "_step", "_runtime"


class History:
    """An attempt's history file, open for more rows.

    Args:
        path: The CSV; rows that are there and lie before `step` are kept, later ones are dropped.
        step: Update that the next row is of.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self._fields, kept = _rows(path, step)
        self._since = time.monotonic() - (float(kept[-1][RUNTIME]) if kept else 0.0)
        if path.exists():
            write_atomic(path, _text(self._fields, kept))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream: TextIO = path.open("a", newline="")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Write the row of one update."""
        row = {STEP: step, **values, RUNTIME: round(time.monotonic() - self._since, 4)}
        if not self._fields:
            self._fields = list(row)
            csv.DictWriter(self._stream, self._fields, lineterminator="\n").writeheader()
        csv.DictWriter(self._stream, self._fields, lineterminator="\n").writerow(row)

    def show(self) -> None:
        """Let readers see everything so far."""
        self._stream.flush()

    def flush(self) -> None:
        """Make everything so far durable."""
        self.show()
        os.fsync(self._stream.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


def _rows(path: Path, before: int) -> tuple[list[str], list[dict[str, str]]]:
    """Column names, and the complete rows before a step."""
    if not path.exists():
        return [], []
    text = path.read_text()
    complete = text[: text.rfind("\n") + 1]  # a process that was killed may leave half a row
    reader = csv.DictReader(io.StringIO(complete))
    return list(reader.fieldnames or []), [row for row in reader if int(row[STEP]) < before]


def _text(fields: list[str], rows: list[dict[str, str]]) -> str:
    if not fields:
        return ""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
