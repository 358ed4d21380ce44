"""Checkpoints given on the command line, or found: where they are, what they bring, their copies.

Reading them needs torch, so this module is imported only when there are any.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.commands.places import bundles, find_run
from services.commands.schema import Setting
from shared.bundle import Bundle, step_of, sync_directory
from shared.config import BACKBONE, RunConfig, TrainingConfig
from shared.datasets.frames import FramesDataset
from shared.errors import BundleError, CheckpointError, UsageError
from shared.events import STAGES, Stage
from shared.worldmodel import build
from shared.worldmodel.checkpoints import (
    Checkpoint,
    architecture_of,
    check_same_architecture,
    load_checkpoint,
    newest_valid,
)
from shared.worldmodel.seen import other_recording, seen_by
from shared.worldmodel.single_file import is_single_file, read_single_file, write_directory

FLAGS: dict[Stage, str] = {
    "video_tokenizer": "--video-checkpoint",
    "latent_actions": "--latent-checkpoint",
    "dynamics": "--dynamics-checkpoint",
}
UNSAID = ("frame_size", "context_length")
"""What weights cannot tell and TinyWorlds' old single files may not say."""


@dataclass(frozen=True, slots=True)
class Given:
    """A checkpoint that a run is to use."""

    checkpoint: Checkpoint
    architecture: dict[str, int]

    @property
    def directory(self) -> Path:
        """Where it lies; TinyWorlds' old form is a single file."""
        return self.checkpoint.directory

    @property
    def step(self) -> int:
        """Updates done."""
        return self.checkpoint.step

    @property
    def peak(self) -> float | None:
        """Peak learning rate it was trained with, if it says so."""
        if self.checkpoint.schedule is not None:
            return self.checkpoint.schedule.peak
        return next(iter(self.checkpoint.scheduler.get("base_lrs") or ()), None)


def read_given(argument: str, stage: Stage, root: Path, *, training: TrainingConfig) -> Given:
    """The checkpoint that an argument names.

    Args:
        argument: A step directory, a single `.pth` file, a `checkpoints/` folder (newest valid), or a run (id
            or bundle).
        stage: Stage it must be of.
        root: Output root, for run ids.
        training: For what an old single file does not say: the frames' size and the windows' length.

    Raises:
        CheckpointError: There is none, it is invalid, or of another stage.
    """
    path = _path(argument, stage, root)
    if is_single_file(path):
        checkpoint = read_single_file(path, {key: getattr(training, key) for key in UNSAID})
    else:
        checkpoint = load_checkpoint(path)
    if checkpoint.stage != stage:
        raise CheckpointError(
            f"{FLAGS[stage]} {argument}: this is a checkpoint of {checkpoint.stage}; "
            f"give it with {FLAGS[checkpoint.stage]}"
        )
    return _given(checkpoint)


def newest_given(stages: Sequence[Stage], root: Path) -> dict[Stage, Given]:
    """The newest valid checkpoints of some stages.

    Those of the newest run that has them all, because they were trained together; without such a run, each
    stage's from the newest run that has one.

    Raises:
        CheckpointError: No run under the output root has one of a stage.
    """
    newest: dict[Stage, Path] = {}
    for run in reversed(bundles(root)):
        assert run.bundle is not None
        found = {stage: path for stage in stages if (path := _newest_of_run(run.bundle, stage)) is not None}
        if len(found) == len(stages):
            newest = found
            break
        newest = found | newest
    if missing := [stage for stage in stages if stage not in newest]:
        raise CheckpointError(
            f"no valid {missing[0]} checkpoint under {root}; give one with {FLAGS[missing[0]]}"
        )
    return {stage: _given(load_checkpoint(path)) for stage, path in newest.items()}


def settings_of(given: dict[Stage, Given], trained: list[Stage]) -> list[Setting]:
    """What checkpoints bring into the configuration: architecture; a stage that resumes, all its kind.

    That is its optimizer, its experts, whether it takes actions, and the peak of its learning rate.

    Raises:
        CheckpointError: Their architectures do not fit together.
    """
    check_same_architecture({str(one.directory): one.architecture for one in given.values()})
    found: list[Setting] = []
    for stage, one in given.items():
        origin, settings = f"checkpoint {one.directory}", build.settings_of(one.checkpoint)
        for key, value in one.architecture.items():
            places = [(name, key) for name in STAGES] if key in BACKBONE else [("training", key)]
            found += [Setting(place, value, origin, key) for place in places]
        if stage in trained:
            resumed = {key: value for key, value in settings.items() if key not in one.architecture}
            if one.peak is not None:
                resumed["learning_rate"] = one.peak
            found += [Setting((stage, key), value, origin, key) for key, value in resumed.items()]
    return found


def check_fit(given: dict[Stage, Given], run: RunConfig, trained: list[Stage]) -> None:
    """Make sure that explicit flags did not ask for something else than the checkpoints are.

    Raises:
        CheckpointError: Names the key and both values, or what in weights or optimizer does not fit.
    """
    for stage, one in given.items():
        config = run.stage(stage)
        configured = architecture_of(config.model_dump(), stage)
        check_same_architecture({str(one.directory): one.architecture, "the configuration": configured})
        if stage in trained:
            build.check_resumable(one.checkpoint, config)
        else:
            build.model_of(one.checkpoint)


def foreign(given: dict[Stage, Given], dataset: FramesDataset) -> list[str]:
    """A sentence for each checkpoint that was trained on another recording, or does not say on which."""
    found = (
        other_recording(f"{FLAGS[stage]} {one.directory.name}", seen_by(one.checkpoint), dataset)
        for stage, one in given.items()
    )
    return [sentence for sentence in found if sentence is not None]


def copy_into(bundle: Bundle, given: dict[Stage, Given]) -> dict[Stage, str]:
    """Copy checkpoints into a bundle, each complete or not at all; their paths as messages carry them."""
    copies: dict[Stage, str] = {}
    for stage, one in given.items():
        target = bundle.checkpoint(stage, one.step)
        temporary = target.with_name(f".{target.name}.tmp")
        if one.directory.is_dir():
            shutil.copytree(one.directory, temporary)
        else:
            write_directory(one.checkpoint, temporary)
        temporary.rename(target)
        sync_directory(target.parent)
        copies[stage] = bundle.relative(target)
    return copies


def _path(argument: str, stage: Stage, root: Path) -> Path:
    path = Path(argument).expanduser()
    if is_single_file(path) or (path.is_dir() and step_of(path) is not None):
        return path.absolute()
    if path.is_dir() and path.name == "checkpoints":
        found = newest_valid(path.absolute())
    else:
        try:
            run = find_run(argument, root)
        except BundleError:
            raise UsageError(
                f"{FLAGS[stage]} {argument}: no step directory, no checkpoints/ folder, no .pth file and "
                "no run"
            ) from None
        found = _newest_of_run(run.bundle, stage) if run.bundle else None
    if found is None:
        raise CheckpointError(f"{FLAGS[stage]} {argument}: no valid {stage} checkpoint there")
    return found


def _newest_of_run(bundle: Path, stage: Stage) -> Path | None:
    folders = sorted(bundle.glob(f"results/*/{stage}/checkpoints"))
    found = [directory for folder in folders if (directory := newest_valid(folder)) is not None]
    return max(found, key=lambda directory: step_of(directory) or 0, default=None)


def _given(checkpoint: Checkpoint) -> Given:
    return Given(checkpoint, architecture_of(checkpoint.config, checkpoint.stage))
