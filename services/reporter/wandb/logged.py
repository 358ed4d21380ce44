"""Reading one history file of any kind: `.wandb`, CSV or JSON exports, and what the API gave (`.jsonl`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.reporter.core.wandb.table import Collector, Table
from shared.errors import BundleError
from shared.history_export import csv_rows, json_rows
from shared.wandb_file import WandbFile
from shared.wandb_rows import Row

Counts = Callable[[float], bool]


@dataclass(frozen=True, slots=True)
class Logged:
    """What one file holds."""

    path: Path
    table: Table
    last: Mapping[str, float]
    """Last number under each name among the rows that count."""
    config: Mapping[str, Any] = field(default_factory=dict)
    summary: Mapping[str, Any] = field(default_factory=dict)
    """As W&B has it; only the API says one."""
    run: str | None = None
    """Id of the W&B run, or its address."""
    damage: str | None = None
    """What is wrong with the file after the last row."""


def read(path: Path, counts: Counts = lambda _: True) -> Logged:
    """Read a file by the kind its suffix says, one row at a time.

    Raises:
        BundleError: It is missing, or not what its suffix says.
    """
    try:
        match path.suffix:
            case ".wandb":
                return _wandb(path, counts)
            case ".jsonl":
                return _fetched(path, counts)
            case ".json":
                return _collected(path, json_rows(path), counts)
            case _:
                return _collected(path, csv_rows(path), counts)
    except OSError as error:
        raise BundleError(f"{path}: the history cannot be read: {error.strerror}") from error


def _wandb(path: Path, counts: Counts) -> Logged:
    file = WandbFile(path)
    found = _collected(path, file.rows(), counts)
    return Logged(
        path, found.table, found.last, config=_plain(file.config), run=file.run_id, damage=file.damage
    )


def _fetched(path: Path, counts: Counts) -> Logged:
    with path.open(encoding="utf-8") as stream:
        head = json.loads(next(stream))
        found = _collected(path, (json.loads(line) for line in stream), counts)
    return Logged(
        path, found.table, found.last, config=_plain(head["config"]), summary=head["summary"], run=head["url"]
    )


def _collected(path: Path, rows: Iterable[Row], counts: Counts) -> Logged:
    collector = Collector(counts)
    for row in rows:
        collector.add(row)
    return Logged(path, collector.table, collector.last)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what W&B adds for itself."""
    return {key: value for key, value in config.items() if not key.startswith("_")}
