"""Writing a checkpoint whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import nn
from torch.optim import Optimizer

from shared.bundle import DIRECTORY_OFFSET, REPLACED, TEMPORARY, recover, sync_directory, write_atomic
from shared.config import ALIGNED, ARCHITECTURE, STAGE_FILES, StageConfig, TrainingConfig
from shared.events import Schedule, Stage
from shared.worldmodel.checkpoints.form import FILES, MANIFEST, OURS, bare
from shared.worldmodel.optim import learning_rate, optimizer_state

NO_FSDP = {
    "use_fsdp": False,
    "reshard_after_forward": False,
    "fsdp_mixed_precision": None,
    "offload_policy": None,
}
"""TinyWorlds' keys of `distributed` for a kind of training that we do not do."""


def save_checkpoint(
    directory: Path,
    *,
    stage: Stage,
    model: nn.Module,
    optimizer: Optimizer,
    step: int,
    config: StageConfig,
    schedule: Schedule,
    extra: Mapping[str, JsonValue] | None = None,
) -> None:
    """Write a checkpoint so that, killed at any byte, the directory holds what it held before or the new one.

    Args:
        directory: `<stage>_step_<step - 1>`; an existing one is replaced.
        stage: The model's stage.
        model: The model; wrapped or compiled ones are saved under the bare names.
        optimizer: What `make_optimizer` made.
        step: Updates done.
        config: The stage's configuration.
        schedule: The current segment.
        extra: Plain values to find again under `Checkpoint.extra`, and in the manifest.

    Raises:
        OSError: The disk refused; what was there stands.
    """
    weights = {name: tensor.detach().cpu() for name, tensor in bare(model.state_dict()).items()}
    next_rate = learning_rate(schedule, step)
    state = {
        "config": plain_config(config, stage),
        "step": step - DIRECTORY_OFFSET,
        "timestamp": datetime.now(UTC).strftime("%Y_%m_%d_%H_%M_%S"),
        "scheduler_state_dict": _scheduler_state(len(optimizer.param_groups), step, schedule.peak, next_rate),
        OURS: {"stage": stage, "schedule": schedule.model_dump(), "extra": dict(extra or {})},
    }
    contents = (weights, optimizer_state(optimizer, next_rate, schedule.peak), state)

    recover(directory.parent)
    temporary, replaced = _beside(directory, TEMPORARY), _beside(directory, REPLACED)
    temporary.mkdir(parents=True)
    try:
        files = {
            name: write_file(temporary / name, content) for name, content in zip(FILES, contents, strict=True)
        }
        manifest = {"format": 1, "stage": stage, "step": step, "extra": dict(extra or {}), "files": files}
        write_atomic(temporary / MANIFEST, json.dumps(manifest, indent=1))
        if directory.exists():
            directory.rename(replaced)
        temporary.rename(directory)
    except BaseException:
        recover(directory.parent)
        raise
    sync_directory(directory.parent)
    recover(directory.parent)


def plain_config(config: StageConfig, stage: Stage) -> dict[str, Any]:
    """A stage's configuration as TinyWorlds stores it: its names, plain types, no other stage's keys."""
    keys = (TrainingConfig.model_fields.keys() | STAGE_FILES[stage].model_fields.keys()) - {"output_root"}
    foreign = set(ALIGNED) - set(ARCHITECTURE[stage])
    values = {key: value for key, value in config.model_dump().items() if key in keys and key not in foreign}
    distributed = {"use_ddp": config.distributed.use_ddp, **NO_FSDP}
    return {
        **values,
        "distributed": distributed,
        "standalone": True,
        "use_wandb": config.wandb != "disabled",
    }


def write_file(path: Path, content: Any) -> dict[str, Any]:
    """Write a torch file through to the disk; its manifest entry."""
    with path.open("w+b") as stream:
        torch.save(content, stream)
        stream.flush()
        os.fsync(stream.fileno())
        stream.seek(0)
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "bytes": path.stat().st_size}


def _beside(directory: Path, suffix: str) -> Path:
    """A hidden name that no reader takes for a checkpoint."""
    return directory.with_name(f".{directory.name}{suffix}")


def _scheduler_state(groups: int, step: int, peak: float, next_rate: float) -> dict[str, Any]:
    return {
        "base_lrs": [peak] * groups,
        "last_epoch": step,
        "_step_count": step + 1,
        "_is_initial": False,
        "_get_lr_called_within_step": False,
        "_last_lr": [next_rate] * groups,
        "lr_lambdas": [None] * groups,
    }
