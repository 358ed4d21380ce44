"""Reading what a chunk left behind: history rows, GPU samples, and when its files last changed."""

from __future__ import annotations

import csv
import math
import os
from array import array
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from services.monitor.core.checkpoints import FILES, Look, empty_problem
from services.monitor.core.gpu import Sample
from services.monitor.core.history import COLUMNS, REQUIRED, Column
from shared.bundle import checkpoint_directories
from shared.errors import BundleError

WRITING_SEC = 10.0
"""A checkpoint whose files changed so recently may still be being written; ours appear whole."""


def read_history(path: Path) -> dict[str, Column]:
    """The known columns of a history, float64; a torn last row is left out.

    A cell that is empty or nonsense is NaN; one that says nan, as a diverged loss does, is infinite.

    Raises:
        BundleError: The file is missing, empty, no table, or lacks a required column; the text names it.
    """
    try:
        table, rows = _table(path)
        torn = _ends_torn(path)
    except FileNotFoundError:
        raise BundleError(f"{path}: there is no history file") from None
    except (OSError, csv.Error) as error:
        raise BundleError(f"{path}: the history cannot be read: {error}") from error
    for name in REQUIRED:
        if name not in table:
            raise BundleError(f"{path}: the history lacks the column {name!r}")
    rows -= torn
    if rows <= 0:
        raise BundleError(f"{path}: the history has no rows")
    return {name: np.array(values[:rows], dtype=np.float64) for name, values in table.items()}


def _table(path: Path) -> tuple[dict[str, array[float]], int]:
    """The known columns as far as they go, and how many rows there are."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        header = next(filter(None, reader), [])
        places = {name: header.index(name) for name in COLUMNS if name in header}
        table = {name: array("d") for name in places}
        rows = 0
        for row in filter(None, reader):
            if len(row) > len(header):
                raise csv.Error(f"line {reader.line_num} has {len(row)} cells, the first one {len(header)}")
            rows += 1
            for name, place in places.items():
                table[name].append(_number(row[place]) if place < len(row) else math.nan)
    return table, rows


def _number(cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        return math.nan
    # Python takes 1_000 for a number, which nobody else does
    return math.nan if "_" in cell else math.inf if math.isnan(value) else value


def _ends_torn(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) not in b"\r\n"


def read_samples(path: Path) -> list[Sample]:
    """The GPU samples of a chunk, as far as they can be read (a killed monitor leaves a torn last line)."""
    if not path.exists():
        return []
    samples = []
    for line in path.read_bytes().splitlines():
        try:
            samples.append(Sample.model_validate_json(line))
        except ValidationError:
            continue  # the missing reading shows as a gap
    return samples


def append_sample(path: Path, sample: Sample) -> None:
    """Keep a sample, so that a monitor that is started again still has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        if stream.tell() > 0:
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":  # the previous monitor died while writing
                stream.write(b"\n")
        stream.write(sample.model_dump_json().encode() + b"\n")


def changed(path: Path | None) -> float | None:
    """Unix time of a file's last change, none if it is not there."""
    try:
        return path.stat().st_mtime if path is not None else None
    except FileNotFoundError:
        return None


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint directory with the highest step, valid or not."""
    return next((path for _, path in reversed(list(checkpoint_directories(folder)))), None)


def look_at_checkpoints(folder: Path, now: float) -> list[Look]:
    """The checkpoints of a folder from outside, oldest first; those that are being written are left out.

    One that has everything counts however new it is: small models have several within `WRITING_SEC`.

    Args:
        folder: A stage's `checkpoints/`.
        now: Unix time.
    """
    found = []
    for step, directory in checkpoint_directories(folder):
        try:
            files = [(path.name, path.stat()) for path in directory.iterdir() if path.is_file()]
            touched = max([directory.stat().st_mtime, *(about.st_mtime for _, about in files)])
        except FileNotFoundError:
            continue  # retention took it meanwhile
        sizes = {name: about.st_size for name, about in files}
        problem = empty_problem(sizes)
        whole = problem is None and all(name in sizes for name in FILES)
        if not whole and now - touched < WRITING_SEC:
            continue
        found.append(Look(str(directory), step, problem, whole))
    return found
