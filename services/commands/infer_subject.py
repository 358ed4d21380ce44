"""What `worldloop infer` tests: whose checkpoints, under which settings, and where its files go.

A run of ours says all of it itself: the checkpoints of its last accepted gates, and what it was configured
with. Any other run, such as TinyWorlds' own, is tested with its newest valid checkpoints, under the
configuration files and what the checkpoints say of the recording; nothing is written into it. Reading
checkpoints needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from pydantic import ValidationError

from services.commands.checkpoints.found import Found, checkpoints_of, newest_of, newest_whole, run_directory
from services.commands.checkpoints.given import FLAGS
from services.commands.configuration.dotted_keys import Setting
from services.commands.configuration.files import file_settings, find_configs, recorded_settings
from services.commands.places import EVENTS_FILE
from services.gatekeeper.core.fold import fold
from services.gatekeeper.core.state import RunState
from shared.bundle import Bundle
from shared.bus.journal import read_journal
from shared.config import TrainingConfig
from shared.errors import BundleError, CheckpointError, UsageError
from shared.events import RUN_ID, STAGES, Stage
from shared.home import expanded
from shared.worldmodel.checkpoints import Checkpoint, load_checkpoint

RESULTS = Path("inference_results")
"""Where files about a run that is not ours go: in the current directory, as TinyWorlds' own script does."""
SAID = ("dataset", "fps", "preload_ratio", "held_out_ratio", "context_length", "frame_size", "patch_size")
"""What checkpoints say of the recording they were trained on."""
UNSAID = {key: TrainingConfig.model_fields[key].default for key in ("frame_size", "context_length")}
"""What old single files do not say."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is tested."""

    name: str
    """For people."""
    checkpoints: dict[Stage, Checkpoint]
    """Those there are; not all stages need one."""
    missing: dict[Stage, str]
    """Why a stage has none."""
    settings: list[Setting]
    """In rising priority, below the command line."""
    out: Path
    """Where pictures and films go."""

    def needs(self, stages: Sequence[Stage]) -> None:
        """Make sure that stages have a checkpoint.

        Raises:
            CheckpointError: Names the first that has none, and why.
        """
        for stage in stages:
            if stage not in self.checkpoints:
                why = self.missing.get(stage, "")
                raise CheckpointError(
                    f"{self.name}: no valid {stage} checkpoint{why}. Give one with {FLAGS[stage]}"
                )


def find_subject(
    argument: str | None, given: Mapping[Stage, str], root: Path, *, out: Path | None = None
) -> Subject:
    """What an argument names, else the newest run whose three stages have valid checkpoints.

    Args:
        argument: A run id, a bundle, a run directory as TinyWorlds leaves it, or anything else that a
            command takes for a checkpoint.
        given: Checkpoints to take instead of the run's own.
        root: Output root; without an argument ./results is looked through as well.
        out: Where files go; none leaves it to what is tested.

    Raises:
        BundleError: There is no such run, or none at all.
        CheckpointError: A given checkpoint is invalid or of another stage.
        UsageError: The argument means nothing, or its files would go into a run that is not ours.
    """
    own = {stage: _given(text, stage, root) for stage, text in given.items()}
    if argument is None:
        run, _ = newest_whole(root)
    else:
        try:
            run = run_directory(argument, root).path
        except BundleError:
            return _loose(argument, own, root, out)
    bundle = run.parent.parent
    if (bundle / EVENTS_FILE).is_file():
        return _ours(Bundle(bundle, run.name), own, out)
    place = expanded(argument) if argument is not None else run
    return _foreign(
        str(run), newest_of(run, [stage for stage in STAGES if stage not in own]), own, place, out
    )


def one_checkpoint(argument: str, stage: Stage, root: Path, *, flag: str) -> Checkpoint:
    """The checkpoint of a stage that a flag names.

    Raises:
        CheckpointError: It is invalid, of another stage, or there is none.
        UsageError: It is no checkpoint at all.
    """
    try:
        found = checkpoints_of(argument, root, stages=[stage], unsaid=UNSAID)
    except UsageError as error:
        raise UsageError(f"{flag} {error}") from None
    if stage in found.checkpoints:
        return found.checkpoints[stage]
    other = next(iter(found.checkpoints), None)
    why = f"this is a checkpoint of {other}" if other else f"no valid {stage} checkpoint there"
    raise CheckpointError(f"{flag} {argument}: {why}{found.reasons([stage])}")


def _given(argument: str, stage: Stage, root: Path) -> Checkpoint:
    return one_checkpoint(argument, stage, root, flag=FLAGS[stage])


def _ours(bundle: Bundle, given: Mapping[Stage, Checkpoint], out: Path | None) -> Subject:
    records = read_journal(bundle.root / EVENTS_FILE)
    if not records:
        raise BundleError(f"{bundle.root}: no run: {EVENTS_FILE} is empty")
    try:
        state = reduce(fold, records, RunState(records[0].message.run_id))
    except ValidationError as error:
        raise BundleError(f"{bundle.root}: the run asks for what cannot be used: {error}") from None
    if state.spec is None:
        raise BundleError(f"{bundle.root}: {EVENTS_FILE} does not say what the run was asked to do")
    selected = {
        stage: load_checkpoint(bundle.resolve(path))
        for stage, path in state.selected.items()
        if stage not in given
    }
    rest = newest_of(bundle.results, [stage for stage in STAGES if stage not in {*given, *selected}])
    return Subject(
        name=state.run_id,
        checkpoints={**rest.checkpoints, **selected, **given},
        missing=_reasons(rest),
        settings=recorded_settings(state.spec),
        out=out or bundle.inference_results,
    )


def _loose(argument: str, given: Mapping[Stage, Checkpoint], root: Path, out: Path | None) -> Subject:
    """Checkpoints that are no run: a step directory, a `checkpoints/` folder, a single file."""
    if RUN_ID.fullmatch(argument):
        raise BundleError(f"{argument}: no run of that id with checkpoints under {root}")
    found = checkpoints_of(argument, root, unsaid=UNSAID)
    return _foreign(argument, found, given, expanded(argument), out)


def _foreign(
    name: str, found: Found, given: Mapping[Stage, Checkpoint], place: Path, out: Path | None
) -> Subject:
    directory = out or RESULTS.absolute()
    if out is None and directory.is_relative_to(place.absolute().resolve()):
        raise UsageError(
            f"{place}: nothing is written into a run that is not ours; say with --out where the pictures go"
        )
    checkpoints = {**found.checkpoints, **given}
    files = file_settings(find_configs(None, beside_theirs=True))
    return Subject(name, checkpoints, _reasons(found), [*files, *_said(checkpoints)], directory)


def _said(checkpoints: Mapping[Stage, Checkpoint]) -> Iterator[Setting]:
    """What checkpoints say of their recording; TinyWorlds' own hold no part of it back."""
    for stage in STAGES:
        if stage in checkpoints:
            config = {"held_out_ratio": 0.0, **checkpoints[stage].config}
            origin = f"checkpoint {checkpoints[stage].directory}"
            for key in SAID:
                if key in config:
                    yield Setting(("training", key), config[key], origin, key)


def _reasons(found: Found) -> dict[Stage, str]:
    return {stage: found.reasons([stage]) for stage in found.passed_over}
