"""Which checkpoints of a folder are valid, and the newest of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shared.bundle import Bundle, checkpoint_directories, step_of
from shared.errors import CheckpointError
from shared.events import CheckpointInfo, Stage
from shared.worldmodel.checkpoints.reading import Checkpoint, load_checkpoint, unreadable


@dataclass(frozen=True, slots=True)
class Newest:
    """What the search for the newest valid checkpoint found."""

    checkpoint: Checkpoint | None
    passed_over: tuple[str, ...]
    """Why each later one is not it."""


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
        return Newest(None, (unreadable(folder, error),))
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
