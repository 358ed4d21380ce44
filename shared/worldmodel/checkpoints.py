"""Checkpoints: directories in TinyWorlds' form, written whole or not at all, read without running code.

`<stage>_step_<N>/` holds `model_state_dict.pt`, `optim_state_dict.pt` and `state.pt` under TinyWorlds' names,
keys and shapes (N counts updates from 0). Ours have a `manifest.json` with checksums beside them, and the key
`worldloop` in `state.pt` for what TinyWorlds does not know. Theirs have neither and are as welcome.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from pydantic_core import from_json
from torch import Tensor, nn
from torch.optim import Optimizer

from shared.bundle import (
    DIRECTORY_OFFSET,
    REPLACED,
    TEMPORARY,
    Bundle,
    checkpoint_directories,
    recover,
    step_of,
    sync_directory,
    write_atomic,
)
from shared.config import ALIGNED, ARCHITECTURE, STAGE_FILES, StageConfig, TrainingConfig
from shared.errors import CheckpointError
from shared.events import CheckpointInfo, Schedule, Stage
from shared.worldmodel.optim import learning_rate, optimizer_state
from shared.worldmodel.safe_load import load_file

MODEL, OPTIMIZER, STATE = FILES = ("model_state_dict.pt", "optim_state_dict.pt", "state.pt")
MANIFEST = "manifest.json"
TINY = 1024
"""A model or optimizer file of at most so many bytes is an empty one."""
OURS = "worldloop"
PREFIXES = ("module.", "_orig_mod.")
"""What DDP and `torch.compile` put before every name."""
NO_FSDP = {
    "use_fsdp": False,
    "reshard_after_forward": False,
    "fsdp_mixed_precision": None,
    "offload_policy": None,
}
"""TinyWorlds' keys of `distributed` for a kind of training that we do not do."""
SIGNATURES: dict[str, Stage] = {
    "encoder.latent_head.1.weight": "video_tokenizer",
    "encoder.action_head.1.weight": "latent_actions",
    "output_mlp.weight": "dynamics",
}
"""Tensors that only one stage's model has."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A valid checkpoint, read."""

    directory: Path
    stage: Stage
    step: int
    """Updates done."""
    config: dict[str, Any]
    """The stage's configuration as plain types, TinyWorlds' key names."""
    model: dict[str, Tensor]
    """The model's state dict."""
    optimizer: dict[str, Any]
    """The optimizer's state dict; `optim.restore_optimizer` takes it."""
    scheduler: dict[str, Any]
    """TinyWorlds' scheduler state."""
    schedule: Schedule | None
    """Segment of the schedule it was trained under; none in TinyWorlds' own."""
    extra: dict[str, Any]
    """What the writer added; empty in TinyWorlds' own."""


@dataclass(frozen=True, slots=True)
class Newest:
    """What the search for the newest valid checkpoint found."""

    checkpoint: Checkpoint | None
    passed_over: tuple[str, ...]
    """Why each later one is not it."""


# --- write ------------------------------------------------------------------------------------------------


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
    weights = {name: tensor.detach().cpu() for name, tensor in _bare(model.state_dict()).items()}
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


def _bare(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefixes of wrappers."""
    for prefix in PREFIXES:
        if weights and all(name.startswith(prefix) for name in weights):
            return _bare({name.removeprefix(prefix): tensor for name, tensor in weights.items()})
    return dict(weights)


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


# --- read -------------------------------------------------------------------------------------------------


def load_checkpoint(directory: Path, *, map_location: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint and make sure that it is valid.

    Raises:
        CheckpointError: It is missing, incomplete, unreadable, damaged, not finite or refused; says what is
            wrong.
    """
    try:
        return _read(directory, map_location)
    except OSError as error:  # no permission, or deleted meanwhile
        raise CheckpointError(_unreadable(directory, error)) from error


def _read(directory: Path, map_location: str | torch.device) -> Checkpoint:
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is no checkpoint: there is no such directory")
    for name in FILES:
        if not (directory / name).is_file():
            raise CheckpointError(f"{directory} is no valid checkpoint: {name} is missing")
    for name in (MODEL, OPTIMIZER):
        size = (directory / name).stat().st_size
        if size <= TINY:
            raise CheckpointError(f"{directory} is no valid checkpoint: {name} has only {size} bytes")
    checked = _check_manifest(directory)
    model, optimizer, state = (load_file(directory / name, map_location) for name in FILES)
    for name, content in ((MODEL, model), (OPTIMIZER, optimizer), (STATE, state)):
        if not isinstance(content, dict) or not content:
            raise CheckpointError(f"{directory / name} holds no entries")
    model = checked_weights(directory / MODEL, model)
    _check_finite(directory / OPTIMIZER, optimizer)
    index, config = state.get("step"), state.get("config")
    if not isinstance(index, int) or index < 0:
        raise CheckpointError(f"{directory / STATE} has no step")
    if not isinstance(config, dict):
        raise CheckpointError(f"{directory / STATE} has no config: what the model looks like is unknown")
    ours = state.get(OURS)
    if ours is not None and not checked:
        raise CheckpointError(
            f"{directory} is no valid checkpoint: {MANIFEST} is missing, it was not written to the end"
        )
    schedule, extra = _ours(directory / STATE, ours)
    return Checkpoint(
        directory=directory,
        stage=stage_of(directory / MODEL, model),
        step=index + DIRECTORY_OFFSET,
        config=config,
        model=model,
        optimizer=optimizer,
        scheduler=state.get("scheduler_state_dict") or {},
        schedule=schedule,
        extra=extra,
    )


def _ours(path: Path, ours: Any) -> tuple[Schedule | None, dict[str, Any]]:
    """Schedule and extra values that our writer left; nothing in TinyWorlds' own."""
    if ours is None:
        return None, {}
    try:
        return Schedule.model_validate(ours["schedule"]), dict(ours["extra"])
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: its entry '{OURS}' cannot be read ({error!r})") from error


def _unreadable(path: Path, error: OSError) -> str:
    return f"{error.filename or path} cannot be read: {error.strerror or error}"


def checked_weights(path: Path, content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """A state dict under the bare names.

    Raises:
        CheckpointError: It maps something else than names to tensors, or one of them is not finite.
    """
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()):
        raise CheckpointError(f"{path} is no state dict: it maps something else than names to tensors")
    _check_finite(path, content)
    return _bare(content)


def stage_of(path: Path, model: Mapping[str, Tensor]) -> Stage:
    """The stage that weights are of.

    Raises:
        CheckpointError: They are of none.
    """
    for tensor, stage in SIGNATURES.items():
        if tensor in model:
            return stage
    raise CheckpointError(f"{path} is of no stage: it has none of the tensors {', '.join(SIGNATURES)}")


def inspect_checkpoint(directory: Path, *, bundle: Bundle) -> CheckpointInfo:
    """Whether a checkpoint directory of a bundle is valid, and if not, why."""
    problem, step = None, step_of(directory)
    try:
        step = load_checkpoint(directory).step
    except CheckpointError as error:
        problem = str(error)
    size = sum(path.stat().st_size for path in directory.glob("*") if path.is_file())
    return CheckpointInfo(
        path=bundle.relative(directory),
        step=step or 0,
        valid=problem is None,
        problem=problem,
        size_bytes=size,
    )


def newest_valid(folder: Path, stage: Stage | None = None) -> Newest:
    """The valid checkpoint with the most updates in a `checkpoints/` folder.

    Args:
        folder: The folder; it need not exist.
        stage: Stage it must be of; none takes any.
    """
    try:
        found = list(checkpoint_directories(folder))
    except OSError as error:
        return Newest(None, (_unreadable(folder, error),))
    passed_over: list[str] = []
    for _, directory in reversed(found):
        try:
            checkpoint = load_checkpoint(directory)
        except CheckpointError as error:
            passed_over.append(str(error))
            continue
        if stage in (None, checkpoint.stage):
            return Newest(checkpoint, tuple(passed_over))
        passed_over.append(f"{directory} holds a checkpoint of {checkpoint.stage}, not of {stage}")
    return Newest(None, tuple(passed_over))


def _check_manifest(directory: Path) -> bool:
    """Compare the files with the manifest's checksums; false if there is no manifest."""
    path = directory / MANIFEST
    if not path.is_file():
        return False
    try:
        expected = {name: entry["sha256"] for name, entry in from_json(path.read_bytes())["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    for name in FILES:
        with (directory / name).open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != expected.get(name):
                raise CheckpointError(f"{directory / name} is damaged: its checksum is not the manifest's")
    return True


def _tensors(content: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, dict):
        for key, inner in content.items():
            yield from _tensors(inner, f"{name}.{key}" if name else str(key))


def _check_finite(path: Path, content: Any) -> None:
    for key, tensor in _tensors(content):
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {key} is not finite")


# --- fit --------------------------------------------------------------------------------------------------


def architecture_of(config: Mapping[str, Any], stage: Stage) -> dict[str, int]:
    """The values that decide the shapes of a stage's weights.

    Args:
        config: `Checkpoint.config`, or a `StageConfig` as dict.
        stage: The stage.

    Raises:
        CheckpointError: One of them is missing or no positive number; names the key.
    """
    found = {key: config.get(key) for key in ARCHITECTURE[stage]}
    wrong = [key for key, value in found.items() if not isinstance(value, int) or value < 1]
    if wrong:
        raise CheckpointError(f"the checkpoint's config of {stage} has no usable {', '.join(wrong)}")
    return {key: value for key, value in found.items() if value is not None}


def check_same_architecture(architectures: Mapping[str, Mapping[str, int]]) -> None:
    """Make sure that models fit together: every key that two of them have agrees.

    Args:
        architectures: What to call each in an error (a path, "the configuration") -> `architecture_of`.

    Raises:
        CheckpointError: Names each key that differs, its values and whose they are.
    """
    values: dict[str, dict[int, list[str]]] = {}
    for name, architecture in architectures.items():
        for key, value in architecture.items():
            values.setdefault(key, {}).setdefault(value, []).append(name)
    differing = [
        f"{key} is " + " and ".join(f"{value} in {', '.join(names)}" for value, names in found.items())
        for key, found in values.items()
        if len(found) > 1
    ]
    if differing:
        raise CheckpointError(
            f"architectures differ: {'; '.join(differing)}. "
            "Take checkpoints that were trained together, or set the configuration to theirs"
        )
