"""From the flags of `worldloop train` to a complete, validated run; nothing has started when this is done."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from services.commands import places
from services.commands.configuration.dotted_keys import Setting
from services.commands.configuration.files import find_configs
from services.commands.configuration.resolve import Resolution, assignments, resolve
from services.commands.machine import place, usable_gpus
from services.commands.training import checkout as theirs
from services.commands.training.options import TrainOptions
from services.policy import Policy
from shared.bundle import Bundle
from shared.config import TrainingConfig
from shared.datasets.names import GAMES, dataset_path, game_of
from shared.errors import BundleError, ConfigurationError, UsageError
from shared.events import CheckoutSpec, RunSpec, Stage
from shared.home import expanded
from shared.settings import Settings

if TYPE_CHECKING:
    from services.commands.checkpoints.given import Given
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
    checkout: CheckoutSpec | None
    """The TinyWorlds repository that trains; none is the built-in trainer."""
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
    settled = settle(options)
    resolution, checkout = settled.resolution, settled.checkout
    root = places.output_root(options.output_root, resolution.run.training.output_root)
    if checkout is None:
        found, notices = usable_gpus(), list[str]()
    else:
        found = theirs.gpus_of(checkout, named=resolution.policy.trainer.torchrun)
        notices = theirs.notices(checkout, resolution, options.stages)
    resolution, game = _on_this_machine(resolution, options, found if gpus is None else gpus, checkout)
    return Prepared(
        resolution=resolution,
        stages=options.stages,
        inference=options.inference,
        given=settled.given,
        root=root,
        game=game,
        observe=options.observe,
        checkout=checkout,
        notices=[*settled.notices, *notices, *_foreign(settled.given, resolution.run.training)],
    )


@dataclass(frozen=True, slots=True)
class Settled:
    """What was asked for, before the machine is looked at."""

    resolution: Resolution
    given: dict[Stage, Given]
    checkout: CheckoutSpec | None
    notices: list[str]


def settle(options: TrainOptions) -> Settled:
    """What flags, given checkpoints, profile, checkout and files make together.

    Raises:
        WorldloopError: Something cannot be used; names the file or flag, the key, and the cure.
    """
    wanted = options.checkpoints
    configs = find_configs(options.configs, beside_theirs=options.checkout is not None)
    flags = [*options.settings(), *assignments(options.assignments)]
    resolution = resolve(configs, options.profile, flags=flags)
    checkout = theirs.locate_asked(resolution)
    own: list[Setting] = []
    if checkout is not None:
        theirs.check_keys(checkout, flags, options.stages)
        own = theirs.file_settings(Path(checkout.directory))
        resolution = resolve(configs, options.profile, checkout=own, flags=flags)
    searched = not options.stages or options.checkpoint_policy == "latest"
    if not wanted and not searched:
        return Settled(resolution, {}, checkout, [])
    from services.commands.checkpoints import given as reading

    root = places.output_root(options.output_root, resolution.run.training.output_root)
    given = {
        stage: reading.read_given(argument, stage, root, training=resolution.run.training)
        for stage, argument in wanted.items()
    }
    notices: list[str] = []
    if searched:
        missing = [stage for stage in options.needed if stage not in given]
        homes = [root] if checkout is None else [root, Path(checkout.directory)]
        given |= reading.newest_given(missing, *homes, trained=options.stages)
        notices = [_taken(stage, given) for stage in missing] if options.stages else []
    brought = reading.settings_of(given, options.stages)
    resolution = resolve(configs, options.profile, checkout=own, checkpoints=brought, flags=flags)
    reading.check_fit(given, resolution.run, options.stages)
    return Settled(resolution, given, checkout, notices)


def _taken(stage: Stage, given: dict[Stage, Given]) -> str:
    """What --checkpoint-policy latest found for a stage."""
    if stage in given:
        return f"{stage} goes on from the newest valid checkpoint, {given[stage].directory}"
    return f"{stage} begins fresh: no valid checkpoint to go on from"


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
        from services.commands.checkpoints.given import copy_into

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
        backend="own" if prepared.checkout is None else "checkout",
        checkout=prepared.checkout,
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


def _on_this_machine(
    resolution: Resolution, options: TrainOptions, gpus: int, checkout: CheckoutSpec | None
) -> tuple[Resolution, str]:
    """The configuration with files, device and number of processes filled in, and the game."""
    training = resolution.run.training
    if checkout is None:
        path = dataset_path(training.dataset, DATA)
    else:
        path = theirs.dataset_of(checkout, training.dataset)
    _check_dataset(path, training.dataset, resolution, checkout)
    device, processes = place(
        training, gpus=gpus, allow_single_gpu=options.allow_single_gpu, check_count=bool(options.stages)
    )
    if checkout is not None and training.nnodes > 1:
        raise UsageError("--nnodes: a checkout's scripts train on one host; leave it out, or --checkout")
    origins = dict(resolution.origins)
    if processes != training.nproc_per_node:
        origins["training.nproc_per_node"] = "--allow-single-gpu"
    if checkout is not None and device == "cpu" and processes > 1:
        processes, origins["training.nproc_per_node"] = 1, "--checkout"  # its DDP needs CUDA
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
    policy = _with_history_repo(resolution, checkout)
    return Resolution(resolution.profile, run, policy, origins), game_of(path)


def _with_history_repo(resolution: Resolution, checkout: CheckoutSpec | None) -> Policy:
    """The policy with the absolute path of the repository whose history is audited."""
    asked = resolution.policy.reporter.history_repo
    if asked is not None and not expanded(asked).is_dir():
        key = "policy.reporter.history_repo"
        raise ConfigurationError(
            resolution.origins[key],
            key,
            f"{asked}: no such directory",
            "Name a git repository, or leave it out",
        )
    path = expanded(asked) if asked else Path(checkout.directory) if checkout else Path.cwd()
    reporter = resolution.policy.reporter.model_copy(update={"history_repo": str(path.absolute())})
    return resolution.policy.model_copy(update={"reporter": reporter})


def _check_dataset(path: Path, name: str, resolution: Resolution, checkout: CheckoutSpec | None) -> None:
    source = resolution.origins["training.dataset"]
    if not path.is_file():
        raise ConfigurationError(
            source, "dataset", f"{name}: there is no file {path}", _how_to_get(name, path, checkout)
        )
    _open(path, resolution.run.training)


def _how_to_get(name: str, path: Path, checkout: CheckoutSpec | None) -> str:
    if checkout is not None:
        return f"Fetch it there: cd {checkout.directory} && worldloop data download --pattern {path.name}"
    game = f"ALE/{name.title().replace('_', '')}-v5" if name.upper() in GAMES else "ALE/Pong-v5"
    return f"Record one with `worldloop data record --env {game} --out {path}`, or give another --dataset"


def _foreign(given: dict[Stage, Given], training: TrainingConfig) -> list[str]:
    """Checkpoints that know another recording."""
    dataset = _open(Path(training.dataset), training) if given else None
    if dataset is None:
        return []
    from services.commands.checkpoints.given import foreign

    return foreign(given, dataset)


def _open(path: Path, training: TrainingConfig) -> FramesDataset | None:
    """The recording; none where h5py is missing: the trainer's machine has it, and looks again."""
    if importlib.util.find_spec("h5py") is None:
        return None
    from shared.datasets.frames import FramesDataset

    return FramesDataset.configured(
        path, training, cache_dir=Settings().cache_dir, frame_size=training.frame_size
    )
