"""Where checkpoints are found: which directories are runs, and what a CHECKPOINT argument stands for.

Every command that takes a checkpoint or a run's checkpoints looks here. Reading needs torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.commands.places import bundles
from services.diagnosis.layout import Results, find_results, stamp
from shared.bundle import checkpoint_directories, step_of
from shared.errors import BundleError, CheckpointError, UsageError
from shared.events import RUN_ID, STAGES, Stage
from shared.home import expanded
from shared.worldmodel.checkpoints import Checkpoint, load_checkpoint, newest_valid
from shared.worldmodel.single_file import is_single_file, read_single_file

NAMED = re.compile(r"\d{4}(?:_\d\d){5}_(\w+)")
"""A run directory's name: the time, and the game."""


@dataclass(slots=True)
class Found:
    """What an argument stands for."""

    checkpoints: dict[Stage, Checkpoint] = field(default_factory=dict)
    """One, or of a run the newest valid one of each stage that has one."""
    passed_over: dict[Stage, tuple[str, ...]] = field(default_factory=dict)
    """Of a run: why each later checkpoint of a stage is not it."""

    def reasons(self, stages: Iterable[Stage]) -> str:
        """What was passed over, as the end of a sentence; empty if nothing was."""
        told = [reason for stage in stages for reason in self.passed_over.get(stage, ())]
        return f": {'; '.join(told)}" if told else ""


def checkpoints_of(
    argument: str, root: Path, *, stages: Sequence[Stage] = STAGES, unsaid: Mapping[str, int]
) -> Found:
    """The checkpoints an argument stands for.

    Args:
        argument: A step directory, a single `.pth` file, a `checkpoints/` folder (newest valid), or a run:
            its id, bundle or run directory, or a stage's directory in it (newest valid of each stage).
        root: Output root, for run ids.
        stages: Which stages of a run are looked for.
        unsaid: What an old single file does not say: frame_size, context_length.

    Raises:
        CheckpointError: The checkpoint is invalid, or the folder holds no valid one.
        UsageError: It is none of these, or nobody may look there.
    """
    try:
        return _checkpoints_at(argument, root, stages, unsaid)
    except OSError as error:
        raise _unreadable(argument, error) from error


def _checkpoints_at(argument: str, root: Path, stages: Sequence[Stage], unsaid: Mapping[str, int]) -> Found:
    path = expanded(argument).absolute()
    if is_single_file(path):
        return _one(read_single_file(path, unsaid))
    if path.is_dir() and step_of(path) is not None:
        return _one(load_checkpoint(path))
    if path.is_dir() and path.name == "checkpoints":
        newest = newest_valid(path)
        if newest.checkpoint is None:
            why = f": {'; '.join(newest.passed_over)}" if newest.passed_over else ""
            raise CheckpointError(f"{argument}: no valid checkpoint there{why}")
        return _one(newest.checkpoint)
    try:
        results = run_directory(argument, root)
    except BundleError:
        raise UsageError(
            f"{argument}: no step directory, no checkpoints/ folder, no .pth file and no run with checkpoints"
        ) from None
    return newest_of(results.path, [stage for stage in stages if stage in results.stages])


def newest_of(run: Path, stages: Iterable[Stage] = STAGES) -> Found:
    """The newest valid checkpoint of each stage of a run directory."""
    found = Found()
    for stage in stages:
        newest = newest_valid(run / stage / "checkpoints", stage)
        found.passed_over[stage] = newest.passed_over
        if newest.checkpoint is not None:
            found.checkpoints[stage] = newest.checkpoint
    return found


def run_directory(argument: str, root: Path) -> Results:
    """The run directory that an argument names, with the stages meant.

    Args:
        argument: A run id, a bundle, a run directory as TinyWorlds leaves it, or a stage's directory in one.
        root: Output root, for run ids.

    Raises:
        BundleError: It is none of these, or nothing of a stage is there.
        UsageError: Nobody may look there.
    """
    path = root / argument if RUN_ID.fullmatch(argument) else expanded(argument)
    try:
        results = find_results(path.absolute())
    except OSError as error:
        raise _unreadable(argument, error) from error
    if results is None:
        raise BundleError(
            f"{argument}: no run with checkpoints: no run id under {root}, no bundle and no run directory"
        )
    return results


def run_directories(homes: Iterable[Path]) -> list[Path]:
    """Run directories that hold checkpoints, newest first by the time in their names.

    Args:
        homes: Output roots, whose bundles count, and directories with a `results/` of their own.
    """
    found: dict[Path, Path] = {}
    for home in homes:
        bundled = [run.bundle for run in bundles(home) if run.bundle is not None]
        for place in (*bundled, home):
            for run in sorted((place / "results").glob("[!.]*")):
                if _holds_checkpoints(run):
                    found.setdefault(run.resolve(), run.absolute())
    return sorted(found.values(), key=lambda run: stamp(run.name))[::-1]


def newest_whole(root: Path) -> tuple[Path, Found]:
    """The newest run with valid checkpoints of all three stages, under an output root or in ./results.

    Raises:
        BundleError: There is none.
    """
    for run in run_directories([root, Path()]):
        found = newest_of(run)
        if len(found.checkpoints) == len(STAGES):
            return run, found
    raise BundleError(
        f"no run with valid checkpoints of all three stages under {root} or in ./results: name one, train "
        "one with `worldloop train`, or put one together with `worldloop checkpoints merge`"
    )


def game_of_run(run: Path) -> str:
    """The game in a run directory's name; empty if the name has none."""
    named = NAMED.fullmatch(run.name)
    return named[1].lower() if named else ""


def _holds_checkpoints(run: Path) -> bool:
    try:
        return any(True for stage in STAGES for _ in checkpoint_directories(run / stage / "checkpoints"))
    except OSError:  # told by name where its checkpoints are looked for
        return True


def _unreadable(argument: str, error: OSError) -> UsageError:
    return UsageError(f"{argument}: {error.filename or argument} cannot be read: {error.strerror}")


def _one(checkpoint: Checkpoint) -> Found:
    return Found({checkpoint.stage: checkpoint})
