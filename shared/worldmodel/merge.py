"""Copies of checkpoints: verified by checksum, and one run directory made of several runs' checkpoints."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path

import psutil
from pydantic_core import from_json

from shared.bundle import DIRECTORY_OFFSET, sync_directory, write_atomic
from shared.errors import CheckpointError
from shared.events import Stage
from shared.worldmodel.checkpoints import FILES, MANIFEST, Checkpoint, load_checkpoint
from shared.worldmodel.single_file import write_directory

RECORD = "merged.json"
"""Beside the stages of a merged run: where each checkpoint came from."""
UNFINISHED = ".merging"
BLOCK = 4 << 20


def merge(checkpoints: Mapping[Stage, Checkpoint], target: Path) -> dict[Stage, Path]:
    """Copy checkpoints into a run directory in TinyWorlds' layout; cut anywhere, `target` is not there.

    Args:
        checkpoints: What to copy, one of each stage.
        target: The run directory to make, `results/<timestamp>_<game>`.

    Returns:
        The copies' step directories.

    Raises:
        CheckpointError: `target` is there already, or a copy is not what was copied.
        OSError: The disk refused; nothing is left.
    """
    if target.exists():
        raise CheckpointError(f"{target} is there already, and nothing is overwritten: name another place")
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear(target.parent)
    # no name that a script which looks for a game's newest run would take
    temporary = target.with_name(f"{UNFINISHED}-{platform.node()}-{os.getpid()}")
    inside = {stage: Path(stage, "checkpoints", name_of(each)) for stage, each in checkpoints.items()}
    try:
        for stage, checkpoint in checkpoints.items():
            copy_checkpoint(checkpoint, temporary / inside[stage])
        sources = {
            stage: {"from": str(origin_of(each.directory)), "updates": each.step}
            for stage, each in checkpoints.items()
        }
        write_atomic(temporary / RECORD, json.dumps(sources, indent=1))
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(target.parent)
    return {stage: target / path for stage, path in inside.items()}


def origin_of(directory: Path) -> Path:
    """Where a step directory of a merged run came from; any other is its own origin."""
    if len(directory.parents) < 3:
        return directory
    stage, record = directory.parents[1].name, directory.parents[2] / RECORD
    try:
        return Path(from_json(record.read_bytes())[stage]["from"])
    except FileNotFoundError:
        return directory
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{record} cannot be read ({error!r}): delete it, it only says what was merged"
        ) from error


def name_of(checkpoint: Checkpoint) -> str:
    """A checkpoint's directory name."""
    return f"{checkpoint.stage}_step_{checkpoint.step - DIRECTORY_OFFSET}"


def copy_checkpoint(checkpoint: Checkpoint, target: Path) -> None:
    """Copy a checkpoint to a new step directory, through to the disk; one in a single file is written out.

    The copy is read again: the source may have been replaced by its trainer while it was copied.

    Raises:
        CheckpointError: A copy is not what was copied, or no valid checkpoint.
        OSError: The disk refused, or `target` is there already.
    """
    if checkpoint.directory.is_file():
        write_directory(checkpoint, target)
    else:
        target.mkdir(parents=True)
        for name in (*FILES, MANIFEST):
            if (checkpoint.directory / name).is_file():
                _copy(checkpoint.directory / name, target / name)
    sync_directory(target)
    load_checkpoint(target)


def _copy(source: Path, target: Path) -> None:
    digest = hashlib.sha256()
    with source.open("rb") as reading, target.open("xb") as writing:
        while block := reading.read(BLOCK):
            digest.update(block)
            writing.write(block)
        writing.flush()
        os.fsync(writing.fileno())
    with target.open("rb") as copied:
        if hashlib.file_digest(copied, "sha256").hexdigest() != digest.hexdigest():
            raise CheckpointError(
                f"the copy of {source} in {target} is damaged: check that disk, and try again"
            )


def _clear(folder: Path) -> None:
    """Remove what merges on this machine left that were killed."""
    prefix = f"{UNFINISHED}-{platform.node()}-"
    for leftover in folder.glob(f"{UNFINISHED}-*"):
        pid = leftover.name.removeprefix(prefix)
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(leftover)
