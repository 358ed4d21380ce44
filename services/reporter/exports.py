"""Files of a run beside its reports: the resolved configuration, and the history as it counts at a gate."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import yaml

from services.reporter.core.lineage import Piece
from shared.bundle import Bundle, write_atomic
from shared.events import GateStage, RunSpec, Stage

Row = dict[str, str]


def write_config(bundle: Bundle, run_id: str, spec: RunSpec) -> None:
    """Write `config/run.yaml`, `policy.yaml`, and `origins.yaml` (where each value came from)."""
    document = spec.model_dump(mode="json", exclude={"bundle", "policy", "origins"})
    parts = {"run": {"run_id": run_id} | document, "policy": spec.policy, "origins": spec.origins}
    for name, part in parts.items():
        write_atomic(
            bundle.config / f"{name}.yaml", yaml.safe_dump(part, sort_keys=False, allow_unicode=True)
        )


def gate_export(bundle: Bundle, run_id: str, stage: GateStage) -> Path:
    """The CSV with a stage's history as it counts; the JSON of the same name lies beside it."""
    return bundle.logs / f"{stage}_history_{run_id}_gate.csv"


def write_gate_export(bundle: Bundle, run_id: str, stage: Stage, pieces: Sequence[Piece]) -> None:
    """Write the rows of the pieces, in order, as CSV and as a JSON list of objects.

    Raises:
        OSError: A history cannot be read, or the disk refused.
    """
    rows = [
        row for piece in pieces for row in read_rows(bundle.resolve(piece.history), piece.start, piece.end)
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = gate_export(bundle, run_id, stage)
    write_atomic(path, text.getvalue())
    values = [{name: number(cell) for name, cell in row.items()} for row in rows]
    write_atomic(path.with_suffix(".json"), json.dumps(values))


def read_rows(path: Path, start: int, end: int) -> list[Row]:
    """The rows of a history with `start <= _step < end`; a torn last row is left out.

    Raises:
        OSError: The file cannot be read.
    """
    whole, _, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    found = []
    for row in csv.DictReader(io.StringIO(whole)):
        step = number(row.get("_step"))
        if step is not None and start <= step < end:
            found.append({name: cell or "" for name, cell in row.items() if isinstance(name, str)})
    return found


def number(cell: str | None) -> float | None:
    """A cell's finite number, none if it holds none."""
    try:
        value = float(cell) if cell else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
