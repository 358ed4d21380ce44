"""Checkpoints of models that never saw a frame, for tests that need one of the right form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.config import StageConfig
from shared.events import Schedule, Stage
from shared.worldmodel.build import build_model
from shared.worldmodel.checkpoints import save_checkpoint
from shared.worldmodel.optim import make_optimizer


def save_untrained(
    directory: Path, stage: Stage, config: StageConfig, *, step: int = 1, **saved: Any
) -> None:
    """Write one that says it was trained for so many updates; `saved` goes to `save_checkpoint`."""
    model = build_model(stage, config)
    plain = {"schedule": Schedule(peak=1e-3, start_step=0, end_step=step)}
    save_checkpoint(
        directory,
        stage=stage,
        model=model,
        optimizer=make_optimizer(model, config),
        step=step,
        config=config,
        **(plain | saved),
    )
