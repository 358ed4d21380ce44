"""The "trained but not playable" checklist, item by item: what is so, what is wrong, what to do about it.

The first four items are TinyWorlds' own: three valid checkpoints, one run directory, a name that the play
scripts select, the latest valid step. The fifth and sixth are what `play` needs besides: models that fit
together, and a recording to take seed frames from.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.commands.checkpoints.found import Found, newest_of
from shared.datasets.mapping import open_frames
from shared.datasets.names import GAMES
from shared.errors import CheckpointError, DatasetError
from shared.events import STAGES, Stage
from shared.worldmodel.build import model_of
from shared.worldmodel.checkpoints import Checkpoint, architecture_of, check_same_architecture
from shared.worldmodel.merge import RECORD
from shared.worldmodel.upstream import check_trained_together

QUESTIONS = {
    "valid": "Are all three checkpoints valid and loadable?",
    "one_run": "Do all three lie in one run directory?",
    "name": "Does the run's name contain what the play scripts select?",
    "newest_valid": "Is it the latest valid step of each stage, not just the latest?",
    "fit": "Do the three fit together?",
    "dataset": "Is there a recording to take seed frames from?",
}
SELECTORS = ("zelda", "sonic", "pole", "pong", "picodoom")
"""What TinyWorlds' play scripts look for in the names of runs."""
OTHER = "name another recording with --dataset FILE"


@dataclass(frozen=True, slots=True)
class Item:
    """One question of the checklist with its answer."""

    key: str
    """Of `QUESTIONS`."""
    ok: bool | None
    """Yes, no, or: it cannot be answered before another item is put right."""
    answer: str
    """What was found, or what is wrong."""
    cure: str = ""
    """What to do about it; empty where nothing is to be done."""

    @property
    def question(self) -> str:
        """In words."""
        return QUESTIONS[self.key]


@dataclass(frozen=True, slots=True)
class Selection:
    """What was chosen, as far as there is anything."""

    selector: str
    """What the run's name had to contain; empty if the run itself was named."""
    runs: tuple[Path, ...]
    """All run directories that hold checkpoints, newest first."""
    root: Path
    """Where runs were looked for, besides ./results."""
    run: Path | None
    found: Found
    """The newest valid checkpoints of `run`."""
    game: str
    recording: Path | None
    """Where seed frames would come from; it may be missing."""
    recording_given: bool
    frame_size: int
    """What the models were trained on."""


def answer(selection: Selection) -> tuple[Item, ...]:
    """Every item with its answer."""
    if selection.run is None:
        return _no_run(selection)
    cure = _elsewhere(selection)
    return (
        _valid(selection, cure),
        _one_run(selection, cure),
        _name(selection),
        _newest_valid(selection),
        _fit(selection),
        _dataset(selection),
    )


def _no_run(selection: Selection) -> tuple[Item, ...]:
    others = f"; there is {', '.join(run.name for run in selection.runs[:3])}" if selection.runs else ""
    missing = (
        f"no run with checkpoints under {selection.root} or in ./results has {selection.selector} in its name"
    )
    rename = (
        f"give a run of this game the name with `worldloop checkpoints merge RUN --game {selection.game}`, "
        "or play it by its directory"
    )
    nothing = "there is no run to look at"
    return (
        _unknown("valid", nothing),
        _unknown("one_run", nothing),
        _no("name", f"{missing}{others}", f"{_train(selection)}; or {rename}"),
        _unknown("newest_valid", nothing),
        _unknown("fit", nothing),
        _dataset(selection),
    )


def _valid(selection: Selection, cure: str) -> Item:
    found, problems = selection.found, []
    for stage in STAGES:
        checkpoint = found.checkpoints.get(stage)
        if checkpoint is None:
            reasons = "; ".join(found.passed_over.get(stage, ()))
            problems.append(f"{stage}: {reasons or 'there is no checkpoint'}")
            continue
        try:
            model_of(checkpoint)
        except CheckpointError as error:
            problems.append(f"{stage}: {error}")
    if not problems:
        each = ", ".join(f"{one.directory.name} ({one.step} updates)" for one in found.checkpoints.values())
        return _yes("valid", each)
    return _no("valid", "; ".join(problems), cure)


def _one_run(selection: Selection, cure: str) -> Item:
    assert selection.run is not None
    missing = _missing(selection)
    if missing:
        return _no(
            "one_run",
            f"{selection.run} has no valid {', no valid '.join(missing)}",
            cure,
        )
    merged = " (merged of several runs)" if (selection.run / RECORD).is_file() else ""
    return _yes("one_run", f"{selection.run}{merged}")


def _name(selection: Selection) -> Item:
    assert selection.run is not None
    name = selection.run.name
    wanted = [word for word in SELECTORS if word in name.lower()]
    if wanted:
        return _yes("name", f"{name} contains {wanted[0]}")
    told = (
        f"{name} contains none of {', '.join(SELECTORS)}: play it by its run id or directory; "
        "TinyWorlds' own play scripts do not find it"
    )
    return _yes("name", told)


def _newest_valid(selection: Selection) -> Item:
    if missing := _missing(selection):
        return _unknown("newest_valid", f"there is no valid {', no valid '.join(missing)}")
    passed_over = [reason for reasons in selection.found.passed_over.values() for reason in reasons]
    steps = ", ".join(one.directory.name for one in selection.found.checkpoints.values())
    skipped = f"; passed over: {'; '.join(passed_over)}" if passed_over else ", and none is newer"
    return _yes("newest_valid", f"{steps}{skipped}")


def _fit(selection: Selection) -> Item:
    if missing := _missing(selection):
        return _unknown("fit", f"there is no valid {', no valid '.join(missing)}")
    try:
        notes = _fitting(selection.found.checkpoints)
    except CheckpointError as error:
        cure = "merge the checkpoints that were trained together: `worldloop checkpoints merge CHECKPOINT...`"
        return _no("fit", str(error), cure)
    told = "; ".join(notes) or "dynamics was trained with this tokenizer and these latent actions"
    return _yes("fit", f"their architectures agree; {told}")


def _dataset(selection: Selection) -> Item:
    path = selection.recording
    if path is None:
        return _no("dataset", "nothing tells which", OTHER)
    if not os.path.isfile(path):  # noqa: PTH113 - no error where nobody may look
        return _no("dataset", f"there is no file {path}", _get(selection, path))
    try:
        with open_frames(path) as frames:
            count, height, width = frames.shape[:3]
    except DatasetError as error:
        return _no("dataset", str(error), OTHER)
    size = selection.frame_size
    if selection.found.checkpoints and (height, width) != (size, size):
        told = f"{path} has frames of {width}x{height}, and the models are made for {size}x{size}"
        return _no("dataset", told, OTHER)
    return _yes("dataset", f"{path}: {count} frames of {width}x{height}")


def _missing(selection: Selection) -> list[Stage]:
    return [stage for stage in STAGES if stage not in selection.found.checkpoints]


def _fitting(checkpoints: Mapping[Stage, Checkpoint]) -> list[str]:
    """What is not known about whether three fit together; raises CheckpointError if they do not."""
    check_same_architecture(
        {one.directory.name: architecture_of(one.config, stage) for stage, one in checkpoints.items()}
    )
    return check_trained_together(checkpoints)


def _elsewhere(selection: Selection) -> str:
    """How to come by what a run lacks: from other runs, if they have it and it fits, else by training."""
    missing = _missing(selection)
    whole = dict(selection.found.checkpoints)
    others: dict[Stage, Path] = {}
    for run in selection.runs:
        wanted = [stage for stage in missing if stage not in whole]
        if run != selection.run and selection.game in run.name.lower() and wanted:
            found = newest_of(run, wanted).checkpoints
            whole |= found
            others |= dict.fromkeys(found, run)
    if not missing or len(whole) < len(STAGES):
        return _train(selection)
    try:
        _fitting(whole)
    except CheckpointError:  # a merge would be refused
        return _train(selection)
    if len(missing) == len(STAGES) and len(set(others.values())) == 1:
        return f"play another run: `{shlex.join(['worldloop', 'play', str(others[missing[0]])])}`"
    own = [] if len(missing) == len(STAGES) else [selection.run]
    sources = [str(path) for path in (*own, *(others[stage] / stage for stage in missing))]
    game = ["--game", selection.game] if selection.game else []
    merge = shlex.join(["worldloop", "checkpoints", "merge", *sources, *game])
    return f"put one run together: `{merge}`"


def _train(selection: Selection) -> str:
    dataset = f" --dataset {selection.game.upper()}" if selection.game.upper() in GAMES else ""
    return f"train it with `worldloop train{dataset}`"


def _get(selection: Selection, path: Path) -> str:
    if selection.recording_given:
        return OTHER
    if selection.game.upper() in GAMES:
        return f"get it with `worldloop data download --pattern {path.name}`, or {OTHER}"
    return OTHER


def _yes(key: str, told: str) -> Item:
    return Item(key, ok=True, answer=told)


def _no(key: str, told: str, cure: str) -> Item:
    return Item(key, ok=False, answer=told, cure=cure)


def _unknown(key: str, told: str) -> Item:
    return Item(key, ok=None, answer=told)
