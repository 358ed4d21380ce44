"""Histories as exports: rows out of our CSV files, and rows into a CSV and a JSON file, one at a time."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

from shared.bundle import replacing
from shared.errors import BundleError
from shared.wandb_rows import STEP, Row

Format = Literal["csv", "json"]
Suffix = Literal["gate", "latest"]
MOST_JSON_BYTES = 128 << 20
"""Of a history in JSON: ten times that in memory."""
FORMATS: tuple[Format, ...] = ("csv", "json")


def export_path(folder: Path, stage: str, run_id: str, suffix: Suffix, form: Format) -> Path:
    """Where an export lies: `<stage>_history_<run id>_<suffix>.<form>`; `gate` at gates, `latest` by hand."""
    return folder / f"{stage}_history_{run_id}_{suffix}.{form}"


def csv_rows(path: Path) -> Iterator[Row]:
    """The rows of a history in CSV, numbers as numbers; a torn last row and empty cells are left out.

    Raises:
        BundleError: It is no CSV.
        OSError: The file cannot be read.
    """
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        try:
            for cells in csv.DictReader(line for line in stream if line.endswith(("\n", "\r"))):
                yield {name: _value(cell) for name, cell in cells.items() if isinstance(name, str) and cell}
        except csv.Error as error:
            raise BundleError(f"{path}: the history cannot be read: {error}") from error


def json_rows(path: Path) -> list[Row]:
    """The rows of a history in JSON: a list of objects, which has to be read as a whole.

    Raises:
        BundleError: It cannot be read, is too large for that, or is no list of rows.
    """
    try:
        if (size := path.stat().st_size) > MOST_JSON_BYTES:
            raise BundleError(
                f"{path}: {size >> 20} MB of JSON are too much to read as a whole: give the history as CSV"
            )
        rows = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: the history cannot be read: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BundleError(f"{path}: no history: it is no list of rows")
    return rows


def number(row: Row, name: str) -> float | None:
    """The finite number of that name in a row, none if there is none."""
    value = row.get(name)
    try:
        return value if isinstance(value, int | float) and math.isfinite(value) else None
    except OverflowError:  # an integer of hundreds of digits
        return None


def write_exports(rows: Callable[[], Iterator[Row]], paths: dict[Format, Path]) -> int:
    """Write rows as CSV, as a JSON list of objects, or both; returns how many.

    They are read twice and never kept: first for the names of the columns. In JSON a number that is not
    finite is a text ("NaN", "Infinity"), as W&B has it. Readers see an old export or the new one, no part.

    Args:
        rows: Begins to read them.
        paths: Where each format goes.

    Raises:
        OSError: The disk refused; old exports stand.
    """
    names = {STEP: None} | dict.fromkeys(name for row in rows() for name in row)
    count = 0
    with contextlib.ExitStack() as stack:
        table = stack.enter_context(_replacing(paths["csv"])) if "csv" in paths else None
        listed = stack.enter_context(_replacing(paths["json"])) if "json" in paths else None
        writer = csv.DictWriter(table, names, restval="", lineterminator="\n") if table is not None else None
        if writer is not None:
            writer.writeheader()
        for row in rows():
            if writer is not None:
                writer.writerow({name: _cell(value) for name, value in row.items() if name in names})
            if listed is not None:
                text = json.dumps({name: _plain(value) for name, value in row.items()})
                listed.write(("[" if count == 0 else ",\n") + text)
            count += 1
        if listed is not None:
            listed.write("]\n" if count else "[]\n")
    return count


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    """A text that takes the place of an old file when all of it is there."""
    with replacing(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="backslashreplace", newline="")
        yield text
        text.detach()


def _value(cell: str) -> Any:
    try:
        return int(cell)
    except ValueError:
        try:
            return float(cell)
        except ValueError:
            return cell


def _cell(value: Any) -> Any:
    if isinstance(value, list | bool):
        return json.dumps(value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):  # in a list; a row has none
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value
