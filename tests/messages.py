"""Messages for tests that need one and care for few of its fields; the others have plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.config import RunConfig
from shared.events import RunSpec, TrainProgress


def run_spec(bundle: Path | str, **changes: Any) -> RunSpec:
    """A run of dynamics alone, with the default configuration."""
    plain: dict[str, Any] = {
        "bundle": str(bundle),
        "run_name": "2026_01_01_00_00_00_pong",
        "profile": "demo",
        "configuration": RunConfig().model_dump(mode="json"),
        "policy": {},
        "origins": {},
        "stages": ["dynamics"],
    }
    return RunSpec.model_validate(plain | changes)


def progress(run_id: str, **changes: Any) -> TrainProgress:
    """What a trainer tells amid the first chunk of dynamics."""
    plain: dict[str, Any] = {
        "stage": "dynamics",
        "attempt": 1,
        "step": 1,
        "target_step": 9,
        "stage_target": 9,
        "loss": 1.0,
        "learning_rate": 1e-3,
        "frames_per_sec": 1.0,
        "eta_sec": 1.0,
    }
    return TrainProgress.model_validate({"run_id": run_id} | plain | changes)
