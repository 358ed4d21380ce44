"""What the readers hand to the judgement: everything found on a run, nothing judged yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.diagnosis.core.model import Checkpoint, Kind
from services.gatekeeper.config import Policy
from services.monitor.core.history import Column
from shared.events import GateDecided, InferenceDone, Stage, VisualNumbers


@dataclass(frozen=True, slots=True)
class StageEvidence:
    """What was found of one stage."""

    stage: Stage
    root: str = ""
    """What the paths of recorded evidence are relative to."""
    columns: Mapping[str, Column] | None = None
    """The stage's history as it counts, oldest row first; none if there is none that can be read."""
    histories: Sequence[str] = ()
    """Files it was read off."""
    history_problems: Sequence[str] = ()
    """Why files could not be read, or not to their end."""
    gates: Sequence[GateDecided] | None = None
    """Recorded gates, oldest first; none for a run that is not ours."""
    checkpoints: Sequence[Checkpoint] | None = None
    """Oldest first; none where there is no place to look for any."""
    sheets: Sequence[str] = ()
    """Picture sheets, oldest first."""
    early: VisualNumbers | None = None
    late: VisualNumbers | None = None
    visual_problem: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    """The stage's configuration under TinyWorlds' names, as far as it is known."""


@dataclass(frozen=True, slots=True)
class RunEvidence:
    """What was found of a run."""

    path: str
    root: str
    """What the paths of recorded evidence are relative to."""
    kind: Kind
    stages: Sequence[StageEvidence]
    policy: Policy
    policy_origin: str
    run_id: str | None = None
    status: str | None = None
    reason: str = ""
    """Why it ended."""
    inference: InferenceDone | None = None
    inference_gate: GateDecided | None = None
    """The newest inference test and what was decided on it."""
    max_mse: float | None = None
    """Limit of that test."""
    notes: Sequence[str] = ()
    """What could not be looked at, or was left aside."""
