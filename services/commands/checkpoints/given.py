"""Checkpoints given on the command line, or found: where they are, what they bring, their copies.

Reading them needs torch, so this module is imported only when there are any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.commands.checkpoints.found import checkpoints_of, newest_of, run_directories
from services.commands.configuration.dotted_keys import Setting
from shared.bundle import Bundle, sync_directory
from shared.config import BACKBONE, RunConfig, TrainingConfig
from shared.datasets.frames import FramesDataset
from shared.errors import CheckpointError, UsageError
from shared.events import STAGES, Stage
from shared.worldmodel import build
from shared.worldmodel.checkpoints import Checkpoint, architecture_of, check_same_architecture
from shared.worldmodel.merge import copy_checkpoint
from shared.worldmodel.seen import other_recording, seen_by
from shared.worldmodel.single_file import UNSAID

FLAGS: dict[Stage, str] = {
    "video_tokenizer": "--video-checkpoint",
    "latent_actions": "--latent-checkpoint",
    "dynamics": "--dynamics-checkpoint",
}


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
        rates = self.checkpoint.scheduler.get("base_lrs")
        return rates[0] if isinstance(rates, list | tuple) and rates else None


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
    unsaid = {key: getattr(training, key) for key in UNSAID}
    try:
        found = checkpoints_of(argument, root, stages=[stage], unsaid=unsaid)
    except UsageError as error:
        raise UsageError(f"{FLAGS[stage]} {error}") from None
    if not found.checkpoints:
        why = found.reasons([stage])
        raise CheckpointError(f"{FLAGS[stage]} {argument}: no valid {stage} checkpoint there{why}")
    (checkpoint,) = found.checkpoints.values()
    if checkpoint.stage != stage:
        raise CheckpointError(
            f"{FLAGS[stage]} {argument}: this is a checkpoint of {checkpoint.stage}; "
            f"give it with {FLAGS[checkpoint.stage]}"
        )
    return _given(checkpoint)


def newest_given(stages: Sequence[Stage], *homes: Path, trained: Sequence[Stage] = ()) -> dict[Stage, Given]:
    """The newest valid checkpoints of some stages.

    Those of the newest run that has them all, because they were trained together; without such a run, each
    stage's from the newest run that has one. A stage that is trained may do without; dynamics does when
    a stage that it builds on does, because it learned the codes of another.

    Args:
        stages: Of which stages.
        homes: Where runs are: the output root, and the checkout that trains.
        trained: Those that the run trains.

    Raises:
        CheckpointError: No run there has one of a stage that is not trained.
    """
    newest: dict[Stage, Checkpoint] = {}
    passed_over: list[str] = []
    for run in run_directories(homes):
        found = newest_of(run, stages)
        if len(found.checkpoints) == len(stages):
            newest = found.checkpoints
            break
        newest = found.checkpoints | newest
        passed_over += [reason for reasons in found.passed_over.values() for reason in reasons]
    lacking = [stage for stage in stages if stage not in newest]
    if missing := [stage for stage in lacking if stage not in trained]:
        why = f": {'; '.join(passed_over)}" if passed_over else ""
        under = " or ".join(str(home) for home in homes)
        raise CheckpointError(
            f"no valid {missing[0]} checkpoint under {under}; give one with {FLAGS[missing[0]]}{why}"
        )
    if lacking:
        newest.pop("dynamics", None)
    return {stage: _given(checkpoint) for stage, checkpoint in newest.items()}


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
    """Copy checkpoints into a bundle, each complete or not at all; their paths as messages carry them.

    Raises:
        CheckpointError: A copy is not what was copied.
    """
    copies: dict[Stage, str] = {}
    for stage, one in given.items():
        target = bundle.checkpoint(stage, one.step)
        temporary = target.with_name(f".{target.name}.tmp")
        copy_checkpoint(one.checkpoint, temporary)
        temporary.rename(target)
        sync_directory(target.parent)
        copies[stage] = bundle.relative(target)
    return copies


def _given(checkpoint: Checkpoint) -> Given:
    return Given(checkpoint, architecture_of(checkpoint.config, checkpoint.stage))
