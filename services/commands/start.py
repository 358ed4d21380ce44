"""From the flags of `worldloop train` to a complete, validated run; nothing has started when this is done."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from services.commands import places
from services.commands.config_files import find_configs
from services.commands.machine import place, usable_gpus
from services.commands.options import TrainOptions
from services.commands.resolve import Resolution, assignments, resolve
from shared.bundle import Bundle
from shared.config import TrainingConfig
from shared.datasets.names import GAMES, dataset_path, game_of
from shared.errors import BundleError, ConfigurationError
from shared.events import STAGES, RunSpec, Stage
from shared.settings import Settings

if TYPE_CHECKING:
    from services.commands.given import Given
    from shared.datasets.frames import FramesDataset

DATA = Path("data")
"""Where the named datasets lie, from the current directory."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that was checked before anything starts."""

    resolution: Resolution
    stages: list[Stage]
    inference: bool
    given: dict[Stage, Given]
    root: Path
    """Output root."""
    game: str
    observe: bool
    notices: list[str]
    """What a person should know and that stops nothing."""


def prepare(options: TrainOptions, *, gpus: int | None = None) -> Prepared:
    """Resolve and check: configuration, checkpoints, dataset, device.

    Args:
        options: The flags.
        gpus: GPUs that can be used; none asks the machine.

    Raises:
        WorldloopError: Something cannot be used; names the file or flag, the key, and the cure.
    """
    resolution, given = settle(options)
    root = places.output_root(options.output_root, resolution.run.training.output_root)
    resolution, game = _on_this_machine(resolution, options, usable_gpus() if gpus is None else gpus)
    notices = _notices(given, resolution.run.training)
    return Prepared(
        resolution, options.stages, options.inference, given, root, game, options.observe, notices
    )


def settle(options: TrainOptions) -> tuple[Resolution, dict[Stage, Given]]:
    """What flags, given checkpoints, profile and files make together, before the machine is looked at.

    Raises:
        WorldloopError: Something cannot be used; names the file or flag, the key, and the cure.
    """
    stages, wanted = options.stages, options.checkpoints
    configs = find_configs(options.configs)
    flags = [*options.settings(), *assignments(options.assignments)]
    resolution = resolve(configs, options.profile, flags=flags)
    if stages and not wanted:
        return resolution, {}
    from services.commands import given as reading

    root = places.output_root(options.output_root, resolution.run.training.output_root)
    given = {
        stage: reading.read_given(argument, stage, root, training=resolution.run.training)
        for stage, argument in wanted.items()
    }
    if not stages:
        missing = [stage for stage in STAGES if stage not in given]
        given |= reading.newest_given(missing, root)
    brought = reading.settings_of(given, stages)
    resolution = resolve(configs, options.profile, checkpoints=brought, flags=flags)
    reading.check_fit(given, resolution.run, stages)
    return resolution, given


def create(prepared: Prepared, run_id: str, now: datetime) -> RunSpec:
    """Make the run's bundle with the given checkpoints in it, and say what the run is to do.

    Raises:
        FileExistsError: There is a bundle of that id.
        BundleError: RUN_BUNDLE_ROOT holds a run, or the directory cannot be made.
    """
    directory = places.bundle_of(run_id, prepared.root)
    bundle = Bundle(directory, places.run_name(now, prepared.game))
    _make(directory, run_id)
    copies: dict[Stage, str] = {}
    if prepared.given:
        from services.commands.given import copy_into

        copies = copy_into(bundle, prepared.given)
    resolution = prepared.resolution
    return RunSpec(
        bundle=str(directory),
        run_name=bundle.run_name,
        profile=resolution.profile,
        configuration=resolution.run.model_dump(mode="json"),
        policy=resolution.policy.model_dump(mode="json"),
        origins=resolution.origins,
        stages=prepared.stages,
        inference=prepared.inference,
        checkpoints=copies,
        given_steps={stage: one.step for stage, one in prepared.given.items()},
        observe=prepared.observe,
    )


def _make(directory: Path, run_id: str) -> None:
    given = directory.name != run_id  # by RUN_BUNDLE_ROOT
    if given and (directory / places.EVENTS_FILE).exists():
        raise BundleError(f"RUN_BUNDLE_ROOT={directory} holds a run already: name another, or unset it")
    try:
        directory.mkdir(parents=True, exist_ok=given)
    except OSError as error:
        if isinstance(error, FileExistsError) and not given:
            raise
        raise BundleError(f"{directory}: cannot be made ({error}); choose another --output-root") from error


def _on_this_machine(resolution: Resolution, options: TrainOptions, gpus: int) -> tuple[Resolution, str]:
    """The configuration with the dataset's file, the device and the number of processes filled in."""
    training = resolution.run.training
    path = dataset_path(training.dataset, DATA)
    _check_dataset(path, training.dataset, resolution)
    device, processes = place(
        training, gpus=gpus, allow_single_gpu=options.allow_single_gpu, check_count=bool(options.stages)
    )
    origins = dict(resolution.origins)
    if processes != training.nproc_per_node:
        origins["training.nproc_per_node"] = "--allow-single-gpu"
    inference_device = (
        device if resolution.run.inference.device == "auto" else resolution.run.inference.device
    )
    run = resolution.run.model_copy(
        update={
            "training": training.model_copy(
                update={"dataset": str(path), "device": device, "nproc_per_node": processes}
            ),
            "inference": resolution.run.inference.model_copy(update={"device": inference_device}),
        }
    )
    return Resolution(resolution.profile, run, resolution.policy, origins), game_of(path)


def _check_dataset(path: Path, name: str, resolution: Resolution) -> None:
    source = resolution.origins["training.dataset"]
    if not path.is_file():
        game = f"ALE/{name.title().replace('_', '')}-v5" if name.upper() in GAMES else "ALE/Pong-v5"
        raise ConfigurationError(
            source,
            "dataset",
            f"{name}: there is no file {path}",
            f"Record one with `worldloop data record --env {game} --out {path}`, or give another --dataset",
        )
    _open(path, resolution.run.training)


def _notices(given: dict[Stage, Given], training: TrainingConfig) -> list[str]:
    """Checkpoints that know another recording."""
    dataset = _open(Path(training.dataset), training) if given else None
    if dataset is None:
        return []
    from services.commands.given import foreign

    return foreign(given, dataset)


def _open(path: Path, training: TrainingConfig) -> FramesDataset | None:
    """The recording; none where h5py is missing: the trainer's machine has it, and looks again."""
    if importlib.util.find_spec("h5py") is None:
        return None
    from shared.datasets.frames import FramesDataset

    return FramesDataset.configured(
        path, training, cache_dir=Settings().cache_dir, frame_size=training.frame_size
    )
