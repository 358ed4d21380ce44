"""Taking over what a launch writes: it comes into the bundle under absolute steps.

Every launch writes into a directory of its own. While it runs, what it has written whole is linked into the
bundle; when it is over, all the rest, and the directory goes. A record in the directory says what its step
numbers mean, so that a trainer that starts after one was killed takes over what that one left.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from pydantic import ValidationError

from services.trainer.checkout.logged import Logged
from services.trainer.core.checkout.dialect import Dialect, by_steps
from services.trainer.core.checkout.launch import Launch
from shared.bundle import DIRECTORY_OFFSET, Bundle, checkpoint_directories, write_atomic
from shared.errors import CheckpointError, complaints
from shared.events import Stage
from shared.sheets import sheet_step

FILES = ("model_state_dict.pt", "optim_state_dict.pt", "state.pt")
RECORD = "launch.json"
SETTLED_SEC = 2.0
"""A file that has not changed for so long is written whole."""
Signature = tuple[tuple[str, int, int], ...]

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass
class Takeover:
    """One launch's directory, and what has come out of it so far.

    Args:
        bundle: Where things go.
        directory: Where the launch writes; in the bundle's file system.
        launch: What its numbers mean.
    """

    bundle: Bundle
    directory: Path
    launch: Launch
    logged: Logged = field(init=False)
    _taken: dict[Path, Signature] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.logged = Logged(self.bundle, self.directory / "wandb", self.launch)

    def begin(self) -> None:
        """Make the directory; the record in it makes sense of what will be written there."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_atomic(self.directory / RECORD, self.launch.model_dump_json())

    def saved(self) -> list[int]:
        """Numbers in the names of the checkpoints that the launch has begun to write."""
        return [step - DIRECTORY_OFFSET for step, _ in self._checkpoints()]

    @property
    def shown(self) -> Dialect | None:
        """How the script counts, as far as its checkpoints show."""
        return by_steps(self.saved(), self.launch.start_step)

    @property
    def misread(self) -> bool:
        """Whether the record misreads the step numbers: what is here belongs to no step of the bundle."""
        return self.shown is not None and (self.shown == "relative") != (self.launch.offset > 0)

    def look(self, *, over: bool) -> None:
        """Take over what is written whole, and read the history as far as it is.

        Args:
            over: The launch has ended: everything is as whole as it will ever be.

        Raises:
            OSError: The disk refused.
        """
        if self.misread:
            return
        checkpoints = self._checkpoints()
        for step, source in checkpoints:
            files = [path for path in source.iterdir() if path.is_file()]
            newest = source == checkpoints[-1][1]
            if over or ({*FILES} <= {path.name for path in files} and (not newest or _settled(files))):
                at = self.bundle.checkpoint(self.launch.stage, step + self.launch.offset)
                self._take(source, files, at)
        for source, number in self._sheets():
            if over or _settled([source]):
                prefix = source.stem.rpartition("_step_")[0]
                name = f"{prefix}_step_{number - DIRECTORY_OFFSET + self.launch.offset}.png"
                self._take_file(source, self.bundle.visualizations(self.launch.stage) / name)
        self.logged.read(over=over)

    def finish(self, *, died: bool) -> tuple[str | None, str | None]:
        """Take over all the rest and remove it from the directory; the processes have ended.

        What is neither checkpoint nor sheet nor of W&B stays where it is.

        Args:
            died: They did not come to their end by themselves.

        Returns:
            Id and bundle path of the W&B run, none without one.

        Raises:
            OSError: The disk refused.
        """
        self.look(over=True)
        if died and not self.misread:
            self.logged.bridge(max((step + self.launch.offset for step, _ in self._checkpoints()), default=0))
        run_id, place = None, None
        for run in self.logged.runs():
            moved = self.bundle.root / "wandb" / run.name
            moved.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(run, moved)
            run_id, place = run.name.rpartition("-")[2], self.bundle.relative(moved)
        for rest in (self._output / "checkpoints", self.directory / "wandb"):
            shutil.rmtree(rest, ignore_errors=True)
        for sheet, _ in self._sheets():
            sheet.unlink()
        (self.directory / RECORD).unlink()  # from here on there is nothing left to take over
        _prune(self.directory)
        with contextlib.suppress(OSError):  # other launches' directories
            self.directory.parent.rmdir()
        return run_id, place

    @property
    def _output(self) -> Path:
        return self.directory / self.launch.stage

    def _checkpoints(self) -> list[tuple[int, Path]]:
        """Updates done, as the launch counts them, and directory of each checkpoint."""
        return list(checkpoint_directories(self._output / "checkpoints"))

    def _sheets(self) -> list[tuple[Path, int]]:
        """Each sheet and the updates done when it was drawn, as the launch counts them."""
        found = ((path, sheet_step(path)) for path in sorted((self._output / "visualizations").glob("*.png")))
        return [(path, step) for path, step in found if step is not None]

    # --- checkpoints and sheets ---------------------------------------------------------------------------

    def _take(self, source: Path, files: list[Path], target: Path) -> None:
        """Put a checkpoint into the lineage; again when it was written again."""
        signature = _signature(files)
        if self._taken.get(source) == signature:
            return
        beside = target.with_name(f".{target.name}.taken")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        for path in files:
            if path.name != "state.pt" or not self._renumber(path, beside / path.name):
                _link(path, beside / path.name)
        if target.exists():
            shutil.rmtree(target)
        beside.rename(target)
        self._taken[source] = signature

    def _renumber(self, source: Path, target: Path) -> bool:
        """Write a `state.pt` anew with the absolute step; false if it has that, or cannot be read."""
        if self.launch.offset == 0:
            return False
        import torch

        from shared.worldmodel.safe_load import load_file

        try:
            state = load_file(source)
        except CheckpointError:  # stays as it is: whoever looks at it says what is wrong
            return False
        if not isinstance(state, dict) or not isinstance(state.get("step"), int):
            return False
        content = io.BytesIO()  # torch calls a disk that is full a RuntimeError
        torch.save({**state, "step": state["step"] + self.launch.offset}, content)
        target.write_bytes(content.getbuffer())
        return True

    def _take_file(self, source: Path, target: Path) -> None:
        signature = _signature([source])
        if self._taken.get(source) == signature:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.taken")
        beside.unlink(missing_ok=True)
        _link(source, beside)
        beside.replace(target)
        self._taken[source] = signature


def leftovers(bundle: Bundle) -> Iterator[Takeover]:
    """Launches whose trainer was killed before it took over what they wrote; none with a broken record."""
    for record in sorted(_folder(bundle).glob(f"*/{RECORD}")):
        try:
            launch = Launch.model_validate_json(record.read_bytes())
        except ValidationError as error:
            problem = complaints(error)[0]
            log.warning("what a launch wrote is not taken over", record=str(record), problem=problem)
        else:
            yield Takeover(bundle, record.parent, launch)


def directory(bundle: Bundle, stage: Stage, attempt: int, launch: int) -> Path:
    """Where a launch writes."""
    return _folder(bundle) / f"{stage}_attempt_{attempt:04d}_launch_{launch}"


def _folder(bundle: Bundle) -> Path:
    return bundle.root / "launches"


def _prune(directory: Path) -> None:
    """Remove a directory and those below it, as far as they are empty."""
    for child in directory.iterdir():
        if child.is_dir() and not child.is_symlink():
            _prune(child)
    with contextlib.suppress(OSError):
        directory.rmdir()


def _link(source: Path, target: Path) -> None:
    """The same file under a second name; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _settled(files: Iterable[Path]) -> bool:
    return all(time.time() - path.stat().st_mtime >= SETTLED_SEC for path in files)


def _signature(files: Iterable[Path]) -> Signature:
    about = ((path.name, path.stat()) for path in sorted(files))
    return tuple((name, each.st_size, each.st_mtime_ns) for name, each in about)
