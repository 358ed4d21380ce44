"""Deletes from a bundle what nobody needs: by the trainer's own rule of retention, when the run is over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from services.bundles.core import named
from services.bundles.run import Run
from services.bundles.tree import remove, scan
from services.trainer.config import Policy
from services.trainer.core import lineage
from shared.bundle import REPLACED, TEMPORARY, checkpoint_directories, recover, sync_directory
from shared.errors import BundleError
from shared.events import STAGES

if TYPE_CHECKING:
    from shared.events import CheckpointInfo


@dataclass(frozen=True, slots=True)
class Removal:
    """Something that may go."""

    path: str
    """Relative to the bundle."""
    why: str
    size: int
    """Bytes on the disk that it frees."""


def keep_last(run: Run) -> int:
    """How many of a stage's newest valid checkpoints the run's own policy keeps.

    Raises:
        BundleError: The run's policy cannot be used.
    """
    if run.state.spec is None:
        return Policy().keep_last
    try:
        return Policy.recorded(run.state.spec.policy.get("trainer", {})).keep_last
    except ValueError as error:
        raise BundleError(f"{run.run_id}: its policy cannot be used: {error}") from None


def removable(run: Run, *, keep: int) -> list[Removal]:
    """What may go: old checkpoints that nothing refers to, superseded ones, what killed writers left.

    Args:
        run: A run that is over.
        keep: How many of a stage's newest valid checkpoints stay, whatever refers to them.
    """
    root = run.bundle.root
    reports = set[str]().union(
        *(named.mentioned(report.read_text(errors="replace")) for report in run.bundle.reports.glob("*.md"))
    )
    kept = named.needed(run.state).union(*(lineage.named(record.message) for record in run.records))
    found: list[Removal] = []
    for stage in STAGES:
        here = _inspect(run, [path for _, path in checkpoint_directories(run.bundle.checkpoints(stage))])
        told = {each.path for each in here if named.is_mentioned(each.path, reports)}
        old = lineage.disposable(here, keep_last=keep, keep=kept | told)
        found += [_removal(root, path, f"older than the newest {keep}, nothing refers to it") for path in old]
        for folder in sorted(run.bundle.superseded(stage, 0).parent.glob("*/checkpoints")):
            for _, directory in checkpoint_directories(folder):
                path = directory.relative_to(root).as_posix()
                if not named.is_mentioned(path, reports):
                    found.append(_removal(root, path, "superseded"))
    return [*found, *(_removal(root, path, "left by a writer that was killed") for path in _leftovers(root))]


def prune(run: Run, removals: Sequence[Removal]) -> None:
    """Delete; killed at any byte, a checkpoint is there whole or not at all, and the next prune clears up.

    Raises:
        BundleError: The disk will not let go of something; names it.
    """
    for stage in STAGES:
        recover(
            run.bundle.checkpoints(stage)
        )  # nobody writes: a checkpoint that was being replaced comes back
    for each in removals:
        path = run.bundle.root / each.path
        try:
            _delete(path)
        except OSError as error:
            raise BundleError(f"{error.filename or path} cannot be deleted: {error.strerror}") from error


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        hidden = path if path.name.endswith(TEMPORARY) else path.with_name(f".{path.name}{TEMPORARY}")
        if hidden != path:
            path.rename(hidden)  # no reader takes it for a checkpoint while it goes
            sync_directory(path.parent)
        remove(hidden)
    else:
        path.unlink(missing_ok=True)


def _inspect(run: Run, directories: Sequence[Path]) -> list[CheckpointInfo]:
    from shared.worldmodel.checkpoints import inspect_checkpoint  # torch

    return [inspect_checkpoint(directory, bundle=run.bundle) for directory in directories]


def _leftovers(root: Path) -> Iterator[str]:
    """Hidden names that only a writer which was killed leaves."""
    inside: tuple[str, ...] = ()
    for entry in scan(root):
        name = entry.path.rpartition("/")[2]
        if entry.path.startswith(inside) or not name.startswith("."):
            continue
        target = root / entry.path.removesuffix(name) / name[1 : -len(REPLACED)]
        if name.endswith(TEMPORARY) or (name.endswith(REPLACED) and target.exists()):
            inside = (*inside, f"{entry.path}/") if inside else (f"{entry.path}/",)
            yield entry.path


def _removal(root: Path, path: str, why: str) -> Removal:
    place = root / path
    if place.is_dir():
        freed = {each.identity: each for each in scan(place) if each.is_file}
        counts = [each.identity for each in scan(place) if each.is_file]
        size = sum(one.allocated for key, one in freed.items() if one.links <= counts.count(key))
    else:
        size = place.lstat().st_size
    return Removal(path, why, size)
