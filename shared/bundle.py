"""A run's directory: where everything lies, and that nothing leaves it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from shared.errors import BundleError
from shared.events import Stage

TEMPORARY, REPLACED = ".tmp", ".replaced"
"""Ends of the hidden names under which a checkpoint is written, and the one it replaces waits."""
DIRECTORY_OFFSET = 1
"""TinyWorlds numbers updates from 0: `<stage>_step_59` holds 60 updates done."""


class Bundle:
    """Paths of one run's bundle.

    Args:
        root: The bundle's directory.
        run_name: `YYYY_MM_DD_HH_MM_SS_<game>`, the directory under `results/`.
    """

    def __init__(self, root: Path, run_name: str) -> None:
        self.root, self.run_name = root, run_name

    @property
    def results(self) -> Path:
        """The run directory as TinyWorlds lays it out."""
        return self.root / "results" / self.run_name

    @property
    def inference_results(self) -> Path:
        """Pictures and videos of inference tests."""
        return self.root / "inference_results"

    @property
    def script_place(self) -> Path:
        """Where a checkout's inference script runs, among links to the checkout; gone when it has ended."""
        return self.inference_results / ".checkout"

    @property
    def reports(self) -> Path:
        """Reports and their data."""
        return self.root / "docs" / "action"

    @property
    def logs(self) -> Path:
        """Events, histories, service logs."""
        return self.root / "Logs"

    @property
    def config(self) -> Path:
        """Resolved configuration and policy."""
        return self.root / "config"

    @property
    def events(self) -> Path:
        """The run's events, one CloudEvent per line."""
        return self.logs / "events.jsonl"

    def checkpoints(self, stage: Stage) -> Path:
        """The stage's checkpoint directories."""
        return self.results / stage / "checkpoints"

    def checkpoint(self, stage: Stage, step: int) -> Path:
        """Directory of the checkpoint with `step` updates done."""
        return self.checkpoints(stage) / f"{stage}_step_{step - DIRECTORY_OFFSET}"

    def visualizations(self, stage: Stage) -> Path:
        """The stage's picture sheets."""
        return self.results / stage / "visualizations"

    def superseded(self, stage: Stage, attempt: int) -> Path:
        """Where checkpoints and sheets beyond a plan's start go before `attempt` starts."""
        return self.results / stage / "superseded" / str(attempt)

    def history(self, stage: Stage, attempt: int) -> Path:
        """History rows that one attempt wrote."""
        return self.logs / "history" / stage / f"attempt_{attempt:04d}.csv"

    def gpu_samples(self, stage: Stage, attempt: int) -> Path:
        """GPU samples over one attempt."""
        return self.logs / "gpu" / f"{stage}_attempt_{attempt:04d}.jsonl"

    def gone(self, now: object = "NEW_PLACE") -> str | None:
        """A sentence about a directory that is not where the run works, with the cure; none if it is there.

        Args:
            now: Where it is, if that is known.
        """
        if self.root.is_dir():
            return None
        return (
            f"the run's bundle is not at {self.root}: if it was moved, move it back (worldloop bundle move "
            f"{now} {self.root}); if it lies on a disk that is not there, mount that"
        )

    def resolve(self, path: str) -> Path:
        """An absolute path for a path in a message.

        Raises:
            BundleError: The path would leave the bundle, by `..`, as absolute path or through a link.
        """
        root = self.root.resolve()
        found = _followed(root / path)
        if not found.is_relative_to(root):
            raise BundleError(f"{path} leads out of the bundle {root}: messages name files inside it only")
        return found

    def relative(self, path: Path) -> str:
        """A path as messages carry it.

        Raises:
            BundleError: The path lies outside the bundle.
        """
        try:
            return path.resolve().relative_to(self.root.resolve()).as_posix()
        except ValueError:
            raise BundleError(f"{path} lies outside the bundle {self.root}") from None


WANDB_LINK = "wandb/*/logs/debug-core.log"
"""W&B's own link to a log in the cache directory, in each offline run; no command reads it."""


def check_inside(root: Path) -> None:
    """Make sure that all in a bundle is a file, a directory, or a link that stays in it.

    For bundles that may come from elsewhere: a link would have a command read, write or delete what is not
    the run's, and reading a device never ends. What lies in `Bundle.script_place` is no command's business.

    Raises:
        BundleError: Something is not; names it.
        OSError: A directory cannot be read.
    """
    inside = root.resolve()
    folders, passed_over = [inside], Bundle(inside, "").script_place
    while folders:
        with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
            for entry in entries:  # what goes meanwhile is no matter: the run may go on
                if entry.is_symlink():
                    path = Path(entry.path)
                    if not (_followed(path).is_relative_to(inside) or path.match(WANDB_LINK)):
                        raise BundleError(
                            f"{entry.path!r} is a link that leads out of the bundle: put a copy there instead"
                        )
                elif entry.is_dir(follow_symlinks=False):
                    folders += {Path(entry.path)} - {passed_over}
                elif not entry.is_file(follow_symlinks=False):
                    raise BundleError(f"{entry.path!r} is no file, directory or link: remove it")


def _followed(path: Path) -> Path:
    """Where a path leads; a link that leads round and round leads to itself."""
    return Path(os.path.realpath(path))


def step_of(directory: Path) -> int | None:
    """Updates done in a checkpoint directory, from its name; none if it is no checkpoint's name."""
    _, found, number = directory.name.rpartition("_step_")
    return int(number) + DIRECTORY_OFFSET if found and number.isascii() and number.isdigit() else None


def checkpoint_directories(folder: Path) -> Iterator[tuple[int, Path]]:
    """Updates done and directory of each checkpoint in a `checkpoints/` folder, oldest first."""
    if folder.is_dir():
        found = ((step_of(child), child) for child in folder.iterdir() if child.is_dir())
        yield from sorted((step, child) for step, child in found if step is not None)


def recover(folder: Path) -> None:
    """Clear what a killed writer left in a `checkpoints/` folder; a checkpoint it was replacing comes back.

    Only for the one process that writes there.
    """
    for leftover in folder.glob(f".*{REPLACED}"):
        target = folder / leftover.name[1 : -len(REPLACED)]
        if target.exists():
            shutil.rmtree(leftover)
        else:
            leftover.rename(target)
    for leftover in folder.glob(f".*{TEMPORARY}"):
        if leftover.is_dir():
            shutil.rmtree(leftover)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part.

    Raises:
        OSError: The disk refused; the old content stands.
    """
    with replacing(path) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content takes the place of a file when all of it is there, and leaves it if not.

    Raises:
        OSError: The disk refused; the old content stands.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames inside a directory durable (where the platform can)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
