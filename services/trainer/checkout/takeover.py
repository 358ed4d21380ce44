"""Taking over what a launch writes: checkpoints, sheets, history come into the bundle under absolute steps.

Every launch writes into a directory of its own. While it runs, what it has written whole is linked into the
bundle; when it is over, all the rest, and the directory goes. A record in the directory says what its step
numbers mean, so that a trainer that starts after one was killed takes over what that one left.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from services.trainer.core.checkout import rows
from services.trainer.core.checkout.dialect import Dialect, by_steps
from services.trainer.core.checkout.rows import Row
from shared.bundle import DIRECTORY_OFFSET, Bundle, checkpoint_directories, write_atomic
from shared.errors import BundleError, CheckpointError
from shared.events import Stage, Value
from shared.sheets import sheet_step
from shared.wandb_file import WandbFile, wait_until_settled

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FILES = ("model_state_dict.pt", "optim_state_dict.pt", "state.pt")
RECORD = "launch.json"
SETTLED_SEC = 2.0
"""A file that has not changed for so long is written whole."""
Signature = tuple[tuple[str, int, int], ...]


class Launch(Value):
    """What the step numbers of a launch mean."""

    stage: Stage
    attempt: int
    start_step: int
    """Absolute updates done before it."""
    end_step: int
    """And after its last."""
    offset: int
    """Added to a step number of its files, it gives the absolute one."""
    loss_factor: int = 1
    """A logged loss times this is the loss."""


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
    rows: dict[int, Row] = field(default_factory=dict)
    """Absolute step -> row, as last read."""
    diverged: bool = False
    """A row has a loss that is not finite."""
    unreadable: str | None = None
    """Why there is no history though W&B has a file."""
    _taken: dict[Path, Signature] = field(default_factory=dict)
    _log: tuple[Path, int] | None = None

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
        self._read_history(over=over)

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
            self._bridge()
        run_id, place = None, None
        for run in self._runs():
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
    def problems(self) -> list[str]:
        """What a person should know about the launch, once it is over."""
        why = self.unreadable or (
            "it logged nothing to W&B, whose local file is the history. Look whether the checkout has "
            "use_wandb and its environment has wandb"
        )
        return [] if self.rows else [f"the launch left no history: {why}"]

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

    # --- history ------------------------------------------------------------------------------------------

    def _runs(self) -> list[Path]:
        """Directories of W&B runs, oldest first; `latest-run` is a link to one of them."""
        found = [path for path in (self.directory / "wandb").glob("*run-*") if not path.is_symlink()]
        return sorted(found, key=lambda path: path.stat().st_mtime)

    def _files(self) -> list[Path]:
        return [path for run in self._runs() for path in run.glob("*.wandb")]

    def _read_history(self, *, over: bool) -> None:
        """Read the W&B file if it has grown, and write the attempt's history."""
        files = self._files()
        if not files:
            return
        file, launch = WandbFile(files[-1]), self.launch
        try:
            if over:
                wait_until_settled(file.path)
            if self._log == (file.path, size := file.path.stat().st_size):
                return
            self._log = file.path, size
            self.rows = rows.by_update(
                file.rows(),
                launch.offset,
                first=launch.start_step,
                end=launch.end_step,
                loss_factor=launch.loss_factor,
            )
        except BundleError as error:
            self.unreadable = str(error)
        self.diverged = rows.diverged(self.rows.values())
        self._write_history()

    def _bridge(self) -> None:
        """Give updates a row that a checkpoint proves, and whose row W&B had not written yet.

        W&B writes its file every 15 seconds, and at the end; what a killed process logged after that is gone.
        Such a row has a step and no numbers: whoever counts the updates finds them, whoever means the losses
        leaves them out.
        """
        launch = self.launch
        reached = max((step + launch.offset for step, _ in self._checkpoints()), default=0)
        lost = [step for step in range(launch.start_step, reached) if step not in self.rows]
        if lost and any(self._files()):
            log.warning("W&B had not written the rows of these updates yet", first=lost[0], last=lost[-1])
            bare: dict[int, Row] = {step: {rows.STEP: step} for step in lost}
            self.rows = dict(sorted((self.rows | bare).items()))
            self._write_history()

    def _write_history(self) -> None:
        if self.rows:
            path = self.bundle.history(self.launch.stage, self.launch.attempt)
            before = _rows_before(path, self.launch.start_step)
            write_atomic(path, _table([*before, *self.rows.values()]))


def leftovers(bundle: Bundle) -> Iterator[Takeover]:
    """Launches whose trainer was killed before it took over what they wrote."""
    for record in sorted(_folder(bundle).glob(f"*/{RECORD}")):
        yield Takeover(bundle, record.parent, Launch.model_validate_json(record.read_bytes()))


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


def _rows_before(path: Path, step: int) -> list[dict[str, Any]]:
    """What earlier launches of the attempt wrote, up to the checkpoint that this one went on from."""
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return [row for row in csv.DictReader(stream) if int(row[rows.STEP]) < step]


def _table(found: list[dict[str, Any]]) -> str:
    names = dict.fromkeys(name for row in found for name in row)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return stream.getvalue()
