"""Reads a stage's history files for the page: only what is new, many files in one go, in bounded memory.

`Logs/history/<stage>/attempt_*.csv` grow while they are read, and are cut back when a launch died. What was
read of a column stays in memory, so that zooming reads nothing; the columns used least are let go first.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from services.reporter.core.page.history import Rows, Steps, Values, thin
from services.reporter.core.page.model import History
from shared.bundle import Bundle
from shared.errors import BundleError
from shared.events import Stage
from shared.wandb_rows import STEP

MAX_ROWS = 8_000_000
"""Rows of all columns that are kept, at 16 bytes each."""
FILE_ROWS = 64
"""Rows that a file counts for besides its own: there may be thousands of short ones."""
BATCH_BYTES = 16 * 2**20
"""Text that is parsed at a time."""
TAIL_BYTES = 128
"""End of what was read that must still be there; a file that was cut back and grew again differs in it."""


Read = tuple[Steps, Values]


@dataclass(slots=True)
class _File:
    """What was read of one attempt's column."""

    columns: list[str] = field(default_factory=list)
    offset: int = 0
    """Bytes read: whole lines only."""
    tail: bytes = b""
    mark: tuple[int, int] = (0, 0)
    """Size and time of change when it was read."""
    steps: Steps = field(default_factory=lambda: np.empty(0, np.int64))
    values: Values = field(default_factory=lambda: np.empty(0))


@dataclass(slots=True)
class _News:
    """Lines that were added to a file."""

    file: _File
    lines: bytes
    count: int


class Histories:
    """The history files of any number of runs. Safe to use from several threads.

    Args:
        max_rows: Rows that are kept; a column that is in use may go beyond it.
    """

    def __init__(self, max_rows: int = MAX_ROWS) -> None:
        self._max_rows = max_rows
        self._kept: dict[tuple[Path, str], dict[int, _File]] = {}
        """Folder and column -> attempt -> what was read; the last used at the end."""
        self._lock = threading.Lock()

    def read(
        self,
        bundle: Bundle,
        stage: Stage,
        column: str,
        superseded: Mapping[int, int | None],
        *,
        start: int | None = None,
        end: int | None = None,
        points: int = 1500,
    ) -> History:
        """A column of a stage's history, thinned out; steps are updates done.

        Args:
            bundle: The run's.
            stage: The stage.
            column: As in the files.
            superseded: Attempt -> from which update on it was rolled back; none where it was not.
            start: First step wanted; none is the first there is.
            end: Last step wanted.
            points: At most as many points in all.

        Raises:
            BundleError: No file has that column, it is no CSV, or the bundle is not there.
            OSError: A file cannot be read.
        """
        folder = bundle.history(stage, 1).parent
        if (gone := bundle.gone()) is not None:
            raise BundleError(gone)
        with self._lock:
            files = self._kept.pop((folder, column), {})
            _refresh(folder, column, files)
            columns = list(dict.fromkeys(name for each in files.values() for name in each.columns))
            if column in columns:
                self._kept[folder, column] = files
                self._let_go()
            attempts = [Rows(number, each.steps, each.values) for number, each in sorted(files.items())]
        columns = [name for name in columns if not name.startswith("_")]
        if columns and column not in columns:
            raise BundleError(f"{stage} has no column {column}; there is {', '.join(columns)}")
        filled = [rows for rows in attempts if len(rows.steps)]
        wanted = [rows.between(start, end) for rows in attempts]
        return History(
            stage=stage,
            column=column,
            columns=columns,
            first=min((int(rows.steps[0]) for rows in filled), default=0),
            last=max((int(rows.steps[-1]) for rows in filled), default=0),
            rows=sum(len(rows.steps) for rows in wanted),
            curves=thin(wanted, superseded, points),
        )

    def _let_go(self) -> None:
        sizes = {
            key: sum(len(each.steps) + FILE_ROWS for each in files.values())
            for key, files in self._kept.items()
        }
        for key in list(self._kept)[:-1]:
            if sum(sizes.values()) <= self._max_rows:
                return
            del self._kept[key], sizes[key]


def _refresh(folder: Path, column: str, files: dict[int, _File]) -> None:
    """Read what is new in a folder's files; what is gone is forgotten."""
    found = {number: path for path in folder.glob("attempt_*.csv") if (number := _number(path)) is not None}
    for number in set(files) - set(found):
        del files[number]
    batch: list[_News] = []
    size = 0
    for number in sorted(found):
        news = _look(found[number], files.setdefault(number, _File()))
        if news is not None:
            batch.append(news)
            size += len(news.lines)
        if size >= BATCH_BYTES:
            _parse_all(batch, column)
            batch, size = [], 0
    _parse_all(batch, column)


def _number(path: Path) -> int | None:
    number = path.stem.rpartition("_")[2]
    return int(number) if number.isascii() and number.isdigit() else None


def _look(path: Path, file: _File) -> _News | None:
    """The whole lines that a file has got since it was read."""
    about = path.stat()
    mark = (about.st_size, about.st_mtime_ns)
    if mark == file.mark:
        return None
    with path.open("rb") as stream:
        stream.seek(max(0, file.offset - len(file.tail)))
        if file.offset == 0 or stream.read(len(file.tail)) != file.tail:
            fresh = _File()
            file.offset, file.tail, file.steps, file.values = 0, b"", fresh.steps, fresh.values
            stream.seek(0)
        added = stream.read()
    whole = added[: added.rfind(b"\n") + 1]  # the rest is just being written, or torn
    file.mark = mark
    file.offset += len(whole)
    file.tail = (file.tail + whole)[-TAIL_BYTES:]
    if file.offset == len(whole):  # read from its beginning
        head, _, whole = whole.partition(b"\n")
        file.columns = [name for name in head.decode(errors="replace").strip().split(",") if name]
    return _News(file, whole, whole.count(b"\n")) if whole else None


def _parse_all(news: Sequence[_News], column: str) -> None:
    """Parse added lines: those of files with the same columns as one text, which is many times faster."""
    groups: dict[tuple[str, ...], list[_News]] = {}
    for each in news:
        groups.setdefault(tuple(each.file.columns), []).append(each)
    for columns, group in groups.items():
        if column not in columns or STEP not in columns:
            continue
        for part, (steps, values) in _parsed(columns, column, group):
            part.file.steps = np.concatenate([part.file.steps, steps])
            part.file.values = np.concatenate([part.file.values, values])


def _parsed(columns: Sequence[str], column: str, group: Sequence[_News]) -> Iterator[tuple[_News, Read]]:
    steps, values = _numbers(columns, column, b"".join(each.lines for each in group))
    if len(steps) == sum(each.count for each in group) and np.isfinite(steps).all():
        edges = np.cumsum([each.count for each in group])[:-1]
        found = list(zip(np.split(steps, edges), np.split(values, edges), strict=True))
    else:  # some line is no row: each file for itself, without such lines
        found = [_numbers(columns, column, each.lines) for each in group]
    for part, (at, numbers) in zip(group, found, strict=True):
        there = np.isfinite(at)
        yield part, ((at[there] + 1).astype(np.int64), numbers[there])


def _numbers(columns: Sequence[str], column: str, lines: bytes) -> tuple[Values, Values]:
    """Steps and values of CSV lines; NaN where a cell is no number."""
    try:
        frame = pd.read_csv(
            io.BytesIO(lines),
            names=list(columns),
            header=None,
            usecols=list({STEP, column}),
            on_bad_lines="skip",
            encoding_errors="replace",
            low_memory=False,
        )
    except pd.errors.EmptyDataError:
        return np.empty(0), np.empty(0)
    except pd.errors.ParserError as error:
        raise BundleError(f"a history cannot be read: {error}") from error
    return _column(frame[STEP]), _column(frame[column])


def _column(cells: pd.Series[float]) -> Values:
    return pd.to_numeric(cells, errors="coerce").to_numpy(np.float64)
