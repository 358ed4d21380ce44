"""Looking at checkpoints: which lie in a place, whether each is valid, what its bundle says of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.commands.checkpoints.found import run_directories
from services.diagnosis import layout
from services.diagnosis.recorded import read_events
from shared.bundle import step_of
from shared.config import ARCHITECTURE, TrainingConfig
from shared.errors import BundleError, CheckpointError, UsageError
from shared.events import RUN_ID, STAGES, Stage
from shared.home import expanded
from shared.worldmodel.checkpoints import FILES, Checkpoint, load_checkpoint
from shared.worldmodel.seen import Seen, seen_by
from shared.worldmodel.single_file import UNSAID, is_single_file, read_single_file

SKIPPED = ("superseded", "site-packages")
"""Folders not looked into, nor hidden ones; Python's own `.pth` files lie in the second."""
ANY = {key: getattr(TrainingConfig(), key) for key in UNSAID}
"""What an old single file does not say does not matter to whether it is valid."""


@dataclass(frozen=True, slots=True)
class Row:
    """A checkpoint that was looked at."""

    path: str
    stage: Stage | None
    """By its weights, or by its name if it is invalid."""
    step: int | None
    """Updates done."""
    problem: str | None
    """Why it is not valid, with the file's name; none if it is valid."""
    size_bytes: int
    architecture: dict[str, int]
    """As far as its config says; empty if it is invalid."""
    trained_on: tuple[Seen, ...]
    """Recordings, oldest first; empty if it is invalid."""
    accepted: bool | None
    """Whether a gate accepted it or a stage was started from it; none outside of a bundle."""
    best: bool | None
    """Whether its bundle calls it the stage's best."""

    @property
    def valid(self) -> bool:
        """Whether it can be used."""
        return self.problem is None


@dataclass(frozen=True, slots=True)
class Standing:
    """What a bundle's events say of its checkpoints, paths in the bundle."""

    accepted: frozenset[str]
    best: frozenset[str]


@dataclass(slots=True)
class Look:
    """One look at some places."""

    rows: list[Row] = field(default_factory=list)
    """By run, stage and step."""
    notes: list[str] = field(default_factory=list)
    """What could not be told of a bundle."""
    _standing: dict[Path, Standing | None] = field(default_factory=dict)

    def at(self, path: Path) -> None:
        """Look at a step directory or a single file."""
        problem, checkpoint, trained_on = _read(path)
        stage = _stage_in(path.name) if checkpoint is None else checkpoint.stage
        bundle, standing = path.parents[4] if len(path.parents) > 4 else path.parent, None
        if path.is_dir() and run_of(path).parent.name == "results":
            standing = self._of_bundle(bundle)
        inside = path.relative_to(bundle).as_posix()
        self.rows.append(
            Row(
                path=str(path),
                stage=stage,
                step=step_of(path) if checkpoint is None else checkpoint.step,
                problem=problem,
                size_bytes=_size(path),
                architecture=_architecture(checkpoint) if checkpoint is not None else {},
                trained_on=trained_on,
                accepted=None if standing is None else inside in standing.accepted,
                best=None if standing is None else inside in standing.best,
            )
        )

    def _of_bundle(self, bundle: Path) -> Standing | None:
        if bundle not in self._standing:
            self._standing[bundle] = None
            if (bundle / layout.EVENTS).is_file():
                try:
                    self._standing[bundle] = _standing(bundle)
                except BundleError as error:
                    self.notes.append(f"{error}; which checkpoints were accepted is not known")
        return self._standing[bundle]


def look_at(arguments: Sequence[str], root: Path) -> Look:
    """Look at every checkpoint that lies in some places, those that were superseded left out.

    Args:
        arguments: Run ids, bundles, run directories, `checkpoints/` folders, step directories, `.pth` files,
            or directories that hold any of these; none is the newest run.
        root: Output root.

    Raises:
        UsageError: One of the places holds none, or cannot be read.
    """
    try:
        found = _find(arguments, root)
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}") from error
    look = Look()
    for path in found:
        look.at(path)
    return look


def run_of(path: Path) -> Path:
    """The run directory around a step directory; of what lies elsewhere, the directory it lies in."""
    inside = path.parent.name == "checkpoints" and path.parent.parent.name in STAGES
    return path.parent.parent.parent if inside else path.parent


def _find(arguments: Sequence[str], root: Path) -> list[Path]:
    """Step directories and single files in all places, each once."""
    if not arguments:
        newest = run_directories([root, Path()])[:1]
        if not newest:
            raise UsageError(f"no run with checkpoints under {root} and none in ./results; name a place")
        arguments = [str(newest[0])]
    found: dict[Path, None] = {}
    for argument in arguments:
        place = root / argument if RUN_ID.fullmatch(argument) else expanded(argument)
        here = _below(place.absolute())
        if not here:
            what = "holds no checkpoint" if place.exists() else "there is no such file, directory or run"
            raise UsageError(
                f"{argument}: {what}; a checkpoint is a <stage>_step_<N>/ directory or a .pth file"
            )
        found.update(dict.fromkeys(here))
    return list(found)


def _below(place: Path) -> list[Path]:
    """Step directories by run, stage and step, then single files; links are followed, but not in circles."""
    if is_single_file(place) or (place.is_dir() and step_of(place) is not None):
        return [place]
    steps: list[Path] = []
    files: list[Path] = []
    visited: set[Path] = set()
    for name, folders, names in os.walk(place, onerror=_refused, followlinks=True):
        here = Path(name)
        folders[:] = [each for each in sorted(folders) if each not in SKIPPED and not each.startswith(".")]
        if here.resolve() in visited:
            folders.clear()
            continue
        visited.add(here.resolve())
        if here.name == "checkpoints":
            steps += [here / each for each in folders if step_of(here / each) is not None]
            folders.clear()
        files += [here / each for each in names if each.endswith(".pth") and is_single_file(here / each)]
    return [*sorted(steps, key=_order), *sorted(files)]


def _refused(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):  # nothing there is no refusal
        raise error


def _order(directory: Path) -> tuple[str, int, int]:
    stage = _stage_in(directory.name)
    known = STAGES.index(stage) if stage is not None else len(STAGES)
    return str(run_of(directory)), known, step_of(directory) or 0


def _read(path: Path) -> tuple[str | None, Checkpoint | None, tuple[Seen, ...]]:
    """Why a checkpoint is not valid, or the checkpoint and its recordings."""
    try:
        single = is_single_file(path)
        checkpoint = read_single_file(path, ANY) if single else load_checkpoint(path)
        trained_on = tuple(seen_by(checkpoint))
    except CheckpointError as error:
        return str(error), None, ()
    if not single and _stage_in(path.name) not in (None, checkpoint.stage):
        return f"{path} holds a checkpoint of {checkpoint.stage}", None, ()
    return None, checkpoint, trained_on


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [path / name for name in FILES]
    try:
        return sum(file.stat().st_size for file in files if file.is_file())
    except OSError:  # its row says why it cannot be read
        return 0


def _stage_in(name: str) -> Stage | None:
    return next((stage for stage in STAGES if name.startswith(stage) or f"_{stage}" in name), None)


def _architecture(checkpoint: Checkpoint) -> dict[str, int]:
    """What the config says; of a single file, not what may have been filled in for it."""
    filled = UNSAID if checkpoint.directory.is_file() else ()
    keys = [key for key in ARCHITECTURE[checkpoint.stage] if key not in filled]
    return {key: checkpoint.config[key] for key in keys if isinstance(checkpoint.config.get(key), int)}


def _standing(bundle: Path) -> Standing:
    run = read_events(bundle / layout.EVENTS)
    gates = [gates for stage in STAGES if (gates := run.gates.get(stage))]
    accepted = {gate.accepted_checkpoint for stage in gates for gate in stage}
    best = {stage[-1].best_checkpoint for stage in gates}
    given = set(run.spec.checkpoints.values()) if run.spec is not None else set()
    return Standing(
        frozenset(path for path in accepted | given if path), frozenset(path for path in best if path)
    )
