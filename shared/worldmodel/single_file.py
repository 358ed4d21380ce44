"""Checkpoints in one file, as TinyWorlds released its models: `<game>_<stage>_step_<N>_<time>.pth`.

Such a file is a dict with the weights under `model` and the stage's `config`, perhaps `optimizer`,
`scheduler` and `step`. It is read as a checkpoint and written out as a step directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from shared.bundle import DIRECTORY_OFFSET
from shared.config import MOST_ACTIONS
from shared.errors import CheckpointError
from shared.worldmodel.build import fresh_optimizer_state
from shared.worldmodel.checkpoints import (
    FILES,
    Checkpoint,
    checked_weights,
    entries,
    is_index,
    stage_of,
    write_file,
)
from shared.worldmodel.safe_load import load_file

SUFFIXES = (".pth", ".pt")
UNSAID = ("frame_size", "context_length")
"""What weights cannot tell and old files may not say."""
WEIGHTS = ("model", "model_state_dict", "state_dict")
OPTIMIZERS = ("optimizer", "optimizer_state_dict", "optim_state_dict")
SCHEDULERS = ("scheduler", "scheduler_state_dict")
STEP = re.compile(r"_step_(\d+)")
CONDITION = ".to_gamma_beta.1.weight"
"""Its columns are the action bits."""


def is_single_file(path: Path) -> bool:
    """Whether a path may be a checkpoint in one file."""
    return path.is_file() and path.suffix in SUFFIXES


def read_single_file(path: Path, unsaid: Mapping[str, int]) -> Checkpoint:
    """Read a checkpoint from one file; without optimizer state it gets a fresh one.

    Args:
        path: The file; `Checkpoint.directory` of the result.
        unsaid: Values of `UNSAID`, for those that this one leaves out.

    Raises:
        CheckpointError: It is damaged, would run code, is of no stage, or lacks what says how to build the
            model; names what, and the cure.
    """
    content = load_file(path)
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds no entries")
    weights, config = _first(content, WEIGHTS), content.get("config")
    if not isinstance(weights, dict) or not isinstance(config, dict):
        raise CheckpointError(
            f"{path} is refused: it is no dict with 'model' (weights) and 'config', and how many heads a "
            "model has cannot be told from weights alone. Save it in that form with the config it was "
            "trained with, or give the step directory it came from"
        )
    model = checked_weights(path, weights)
    stage, known = stage_of(path, model), {**unsaid, **_told(model)}
    filled = {key: value for key, value in known.items() if config.get(key) is None}
    if missing := [key for key in UNSAID if (config | filled).get(key) is None]:
        raise CheckpointError(
            f"{path} does not say its {' and its '.join(missing)}: give what it was trained with, as "
            f"{' and '.join('--' + key.replace('_', '-') for key in missing)}"
        )
    checkpoint = Checkpoint(
        directory=path,
        stage=stage,
        step=_step(path, content) + DIRECTORY_OFFSET,
        config=config | filled,
        model=model,
        optimizer=entries(path, content, *OPTIMIZERS),
        scheduler=entries(path, content, *SCHEDULERS),
        schedule=None,
        extra={},
    )
    return checkpoint if checkpoint.optimizer else fresh_optimizer_state(checkpoint)


def write_directory(checkpoint: Checkpoint, directory: Path) -> None:
    """Write a checkpoint out as TinyWorlds' three files, through to the disk."""
    directory.mkdir(parents=True)
    state = {
        "config": checkpoint.config,
        "step": checkpoint.step - DIRECTORY_OFFSET,
        "scheduler_state_dict": checkpoint.scheduler,
    }
    contents = (checkpoint.model, checkpoint.optimizer, state)
    for name, content in zip(FILES, contents, strict=True):
        write_file(directory / name, content)


def _first(content: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((content[key] for key in keys if content.get(key) is not None), None)


def _step(path: Path, content: Mapping[str, Any]) -> int:
    step = content.get("step")
    if is_index(step):
        return step
    if (named := STEP.search(path.name)) is not None:
        return int(named[1])
    raise CheckpointError(f"{path} does not say its step: call it <stage>_step_<N>{path.suffix}")


def _told(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """What TinyWorlds, too, reads off the weights where the config leaves it out."""
    shapes = (tensor.shape for name, tensor in weights.items() if name.endswith(CONDITION))
    bits = next((shape[1] for shape in shapes if len(shape) == 2), None)
    return {"n_actions": 2**bits} if bits is not None and 2 ** min(bits, 64) <= MOST_ACTIONS else {}
