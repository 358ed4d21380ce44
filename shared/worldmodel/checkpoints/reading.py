"""Reading a checkpoint, and making sure that it is valid."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from pydantic_core import from_json
from torch import Tensor

from shared.bundle import DIRECTORY_OFFSET
from shared.errors import CheckpointError
from shared.events import Schedule, Stage
from shared.worldmodel.checkpoints.form import (
    FILES,
    MANIFEST,
    MODEL,
    OPTIMIZER,
    OURS,
    STATE,
    TINY,
    bare,
    stage_of,
)
from shared.worldmodel.safe_load import load_file

MOST_STEPS = 10**12
"""Updates that nobody makes."""


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


def load_checkpoint(directory: Path, *, map_location: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint and make sure that it is valid.

    Raises:
        CheckpointError: It is missing, incomplete, unreadable, damaged, not finite or refused; says what is
            wrong.
    """
    try:
        return _read(directory, map_location)
    except OSError as error:  # no permission, or deleted meanwhile
        raise CheckpointError(unreadable(directory, error)) from error


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
    if not is_index(index):
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
        scheduler=entries(directory / STATE, state, "scheduler_state_dict"),
        schedule=schedule,
        extra=extra,
    )


def is_index(value: object) -> TypeGuard[int]:
    """Whether a value can be the number of an update, from 0."""
    return isinstance(value, int) and 0 <= value < MOST_STEPS


def entries(path: Path, content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """What a file has under the first of some keys that it has; empty if it has none.

    Raises:
        CheckpointError: It is no dict.
    """
    key, found = next(((key, content[key]) for key in keys if content.get(key) is not None), ("", {}))
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is damaged: its entry '{key}' is no dict")
    return found


def _ours(path: Path, ours: Any) -> tuple[Schedule | None, dict[str, Any]]:
    """Schedule and extra values that our writer left; nothing in TinyWorlds' own."""
    if ours is None:
        return None, {}
    try:
        return Schedule.model_validate(ours["schedule"]), dict(ours["extra"])
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: its entry '{OURS}' cannot be read ({error!r})") from error


def unreadable(path: Path, error: OSError) -> str:
    """The sentence for a file or folder that the system does not let us read."""
    return f"{error.filename or path} cannot be read: {error.strerror or error}"


def checked_weights(path: Path, content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """A state dict under the bare names.

    Raises:
        CheckpointError: It maps something else than names to tensors, or one of them is not finite.
    """
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()):
        raise CheckpointError(f"{path} is no state dict: it maps something else than names to tensors")
    _check_finite(path, content)
    return bare(content)


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
