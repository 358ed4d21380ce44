"""What the events of a bundle say about its run, as far as a diagnosis needs it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.bus.journal import read_journal
from shared.events import (
    ChunkStarted,
    GateDecided,
    InferenceDone,
    Message,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunSpec,
    RunStarted,
    Stage,
)


@dataclass(slots=True)
class RecordedRun:
    """A run by its events; empty where there are none."""

    run_id: str | None = None
    spec: RunSpec | None = None
    status: str | None = None
    reason: str = ""
    """Why it has this status."""
    gates: dict[str, list[GateDecided]] = field(default_factory=dict)
    """Stage, or inference -> its gates, oldest first."""
    parameters: dict[Stage, dict[str, Any]] = field(default_factory=dict)
    """Of every stage that was begun, as last planned; `n_updates` is its target as last decided."""
    inference: InferenceDone | None = None
    """The newest test."""

    @property
    def max_mse(self) -> float | None:
        """Limit of the inference test."""
        section = self.spec.configuration.get("inference") if self.spec is not None else None
        limit = section.get("max_mse") if isinstance(section, dict) else None
        return limit if isinstance(limit, float) else None


def read_events(path: Path) -> RecordedRun:
    """Read a bundle's event file.

    Raises:
        BundleError: It cannot be read; the text says why.
    """
    run = RecordedRun()
    for record in read_journal(path):
        run.run_id = record.message.run_id
        _take(run, record.message)
    return run


def _take(run: RecordedRun, message: Message) -> None:
    match message:
        case RunQueued(spec=spec):
            run.spec, run.status = spec, "queued"
        case RunStarted(spec=spec):
            run.spec, run.status = spec, "running"
        case ChunkStarted(stage=stage, plan=plan):
            run.parameters[stage] = dict(plan.parameters)
        case GateDecided():
            _take_gate(run, message)
        case InferenceDone():
            run.inference = message
        case RunPaused(reason=reason):
            run.status, run.reason = "paused", reason
        case RunResumed(reason=reason):
            run.status, run.reason = "running", reason
        case RunFinished(status=status, reason=reason):
            run.status, run.reason = status, reason
        case _:
            pass


def _take_gate(run: RecordedRun, gate: GateDecided) -> None:
    run.gates.setdefault(gate.stage, []).append(gate)
    if gate.stage != "inference":
        run.parameters.setdefault(gate.stage, {})["n_updates"] = gate.target_step
    elif gate.next_target_step is not None:  # it sends dynamics further
        run.parameters.setdefault("dynamics", {})["n_updates"] = gate.target_step
