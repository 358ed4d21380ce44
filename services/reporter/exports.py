"""Files of a run beside its reports: the resolved configuration, and the history as it counts at a gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from services.reporter.core.lineage import Piece
from shared.bundle import Bundle, write_atomic
from shared.events import GateStage, RunSpec, Stage
from shared.history_export import FORMATS, csv_rows, export_path, number, write_exports
from shared.wandb_rows import STEP, Row


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
    return export_path(bundle.logs, stage, run_id, "gate", "csv")


def write_gate_export(bundle: Bundle, run_id: str, stage: Stage, pieces: Sequence[Piece]) -> None:
    """Write the rows of the pieces, in order, as CSV and as a JSON list of objects.

    Raises:
        BundleError: A history is no CSV.
        OSError: A history cannot be read, or the disk refused.
    """

    def rows() -> Iterator[Row]:
        for piece in pieces:
            yield from read_rows(bundle.resolve(piece.history), piece.start, piece.end)

    write_exports(rows, {form: export_path(bundle.logs, stage, run_id, "gate", form) for form in FORMATS})


def read_rows(path: Path, start: int, end: int) -> Iterator[Row]:
    """The rows of a history with `start <= _step < end`; a torn last row is left out.

    Raises:
        BundleError: It is no CSV.
        OSError: The file cannot be read.
    """
    for row in csv_rows(path):
        step = number(row, STEP)
        if step is not None and start <= step < end:
            yield row
