"""Reading histories of any kind: our CSV, exports as CSV or JSON, `.wandb` files."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from services.diagnosis.kept import Kept, state_of
from services.diagnosis.layout import HISTORY_SUFFIXES
from services.monitor.core.history import (
    ACTION_ENTROPY,
    CODEBOOK_USAGE,
    COLUMNS,
    LOSS,
    REQUIRED,
    UNIQUE_ACTIONS,
    Column,
)
from services.monitor.files import read_history
from shared.errors import BundleError
from shared.events import STAGES, Stage
from shared.history_export import json_rows
from shared.wandb_file import WandbFile


@dataclass(frozen=True, slots=True)
class History:
    """One file's rows."""

    path: Path
    columns: Mapping[str, Column]
    stage: Stage | None
    """As names or columns tell; none if they do not."""
    problem: str | None = None
    """Why it could not be read to its end."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """What the run was configured with, if the file says so."""


_KEPT: Kept[History] = Kept(8)


def read(path: Path) -> History:
    """Read a history by the kind its suffix says; one that has not changed is not read again.

    Raises:
        BundleError: It cannot be read, lacks a required column, or has no row with a step and a loss, finite
            or not; the text says which.
    """
    return _KEPT.of(path, state_of(path), lambda: _read(path))


def _read(path: Path) -> History:
    if path.suffix == ".wandb":
        history = _wandb(path)
    elif path.suffix in HISTORY_SUFFIXES:
        columns = _columns(path, json_rows(path)) if path.suffix == ".json" else _csv(path)
        history = History(path, columns, _stage(path.name, columns))
    else:
        raise BundleError(f"{path}: no history: .csv, .json and .wandb files can be read")
    steps, losses = (history.columns[name] for name in REQUIRED)
    if not np.any(np.isfinite(steps) & ~np.isnan(losses)):
        raise BundleError(f"{path}: no history: no row has both {' and '.join(REQUIRED)}")
    return history


def _csv(path: Path) -> dict[str, Column]:
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as stream:
            names = next(csv.reader(stream), [])
    except (OSError, csv.Error) as error:
        raise BundleError(f"{path}: the history cannot be read: {error}") from error
    _check_names(path, names)
    return read_history(path)


def _wandb(path: Path) -> History:
    file = WandbFile(path)
    try:
        columns = _columns(path, file.rows(COLUMNS))
    except BundleError as error:
        raise BundleError(f"{error}; {file.damage}" if file.damage else str(error)) from None
    problem = f"{path}: {file.damage}; the rows before it are used" if file.damage else None
    return History(path, columns, _stage(file.name or "", columns), problem, file.config)


def _columns(path: Path, rows: Iterable[Mapping[str, Any]]) -> dict[str, Column]:
    """Rows as columns; rows with nothing but a step (other things were logged there) are left out."""
    values: dict[str, list[float]] = {}
    seen: dict[str, None] = {}
    count = 0
    for row in rows:
        seen.update(dict.fromkeys(row))
        known = {name: _number(row[name]) for name in COLUMNS if name in row}
        if not known.keys() - {REQUIRED[0]}:
            continue
        for name, value in known.items():
            column = values.setdefault(name, [])
            column.extend([np.nan] * (count - len(column)))
            column.append(value)
        count += 1
    if not count and not seen:
        raise BundleError(f"{path}: the history has no rows")
    _check_names(path, list(seen))
    return {name: np.array([*column, *[np.nan] * (count - len(column))]) for name, column in values.items()}


def _number(value: Any) -> float:
    """A cell: NaN where there is no number, infinite where there is one that is not finite."""
    if value is None or isinstance(value, dict | list):
        return float("nan")
    try:
        number = float(value)
    except ValueError:
        return float("nan")
    except OverflowError:  # an integer of hundreds of digits
        return math.inf
    return number if math.isfinite(number) else math.inf


def _check_names(path: Path, names: Iterable[str]) -> None:
    there = list(names)
    missing = [name for name in REQUIRED if name not in there]
    if missing:
        readable = [name[:40] for name in there if name.isprintable()]
        shown = ", ".join(readable[:12]) + (", ..." if len(readable) > 12 else "")
        raise BundleError(
            f"{path}: no history: it lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"it has {shown or 'none'}"
        )


def _stage(text: str, columns: Mapping[str, Column]) -> Stage | None:
    """The stage that a name says, else the one whose columns these are."""
    named: list[Stage] = [stage for stage in STAGES if stage in text]
    if len(named) == 1:
        return named[0]
    usage = any(name in columns for name in CODEBOOK_USAGE)
    if ACTION_ENTROPY in columns or UNIQUE_ACTIONS in columns:
        return "latent_actions" if usage else "dynamics"
    return "video_tokenizer" if usage and LOSS in columns else None
