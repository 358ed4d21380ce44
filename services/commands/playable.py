"""What `play` works with: which checkpoints and which recording a word means, and whether they can be played.

    chosen = choose("zelda", root)       # zelda|sonic|pole|pong|picodoom | RUN | DIR | None: newest whole run
    chosen.require()                     # CheckpointError with the whole checklist unless it is playable
    World.load(chosen.checkpoints, ...)  # {stage: step directory}, all three, valid, fitting together
    FramesDataset.configured(chosen.dataset, chosen.training, ..., frame_size=chosen.training.frame_size)

`chosen.items` is the "trained but not playable" checklist (`services.commands.checklist`), each item with
its answer; `check` prints it and returns the exit code of `play --check`. Choosing reads checkpoints, and so
needs torch.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services.commands.checklist import SELECTORS, Item, Selection, answer
from services.commands.checkpoints.found import (
    Found,
    game_of_run,
    newest_of,
    newest_whole,
    run_directories,
    run_directory,
)
from services.commands.configuration.dotted_keys import closest
from services.commands.terminal.output import say, say_json
from services.commands.training.start import DATA
from shared.config import TrainingConfig
from shared.datasets.names import GAMES, dataset_path, game_of
from shared.errors import BundleError, CheckpointError, UsageError
from shared.events import STAGES, Stage

WINDOWS = ("context_length", "frame_size", "patch_size", "fps", "preload_ratio", "held_out_ratio")
"""How a checkpoint's config says that recordings are read."""


@dataclass(frozen=True, slots=True)
class Playable:
    """A world that was named, and whether it can be played."""

    what: str
    """As it was asked for."""
    run: Path | None
    """Run directory `results/<name>` the checkpoints lie in; none was found."""
    game: str
    """As in the names of runs and recordings, e.g. pole_position; empty if nothing tells."""
    checkpoints: dict[Stage, Path]
    """Step directory of the newest valid checkpoint of each stage that has one."""
    steps: dict[Stage, int]
    """Their updates done."""
    dataset: Path | None
    """Recording for seed frames, opened once to see that it fits; none was found, or it does not fit."""
    training: TrainingConfig
    """How the recording is read: frame size, windows, rate, held-out part, as the dynamics was trained."""
    items: tuple[Item, ...]
    """The checklist."""

    @property
    def ready(self) -> bool:
        """Whether it can be played: every item says yes."""
        return all(item.ok for item in self.items)

    def require(self) -> None:
        """Make sure that it can be played.

        Raises:
            CheckpointError: It cannot; the text is the checklist.
        """
        if not self.ready:
            raise CheckpointError(f"{self.what} cannot be played yet\n{_text(self)}")


def choose(what: str | None, root: Path, *, dataset: str | None = None) -> Playable:
    """The checkpoints and the recording that a word means.

    Args:
        what: A game (newest run whose name contains it), a run id, a bundle, a TinyWorlds run directory or a
            merged one; none is the newest run with valid checkpoints of all three stages.
        root: Output root; runs are looked for there and in ./results.
        dataset: Recording for seed frames; none is the one the run was trained on, else the game's in data/.

    Raises:
        UsageError: The word means nothing.
        BundleError: Nothing was named, and no run has valid checkpoints of all three stages.
    """
    runs = run_directories([root, Path()])
    run: Path | None
    if what is None:
        (run, found), selector = newest_whole(root), ""
    elif what in SELECTORS:
        selector = what
        run = next((each for each in runs if selector in each.name.lower()), None)
        found = Found() if run is None else newest_of(run)
    else:
        run, selector = _named(what, root), ""
        found = newest_of(run)
    checkpoints = found.checkpoints
    training = _training(found)
    game = _game(run, found) or next(
        (name.lower() for name in GAMES if selector and selector in name.lower()), ""
    )
    recording = _recording(found, game, dataset)
    selection = Selection(
        selector=selector,
        runs=tuple(runs),
        root=root,
        run=run,
        found=found,
        game=game,
        recording=recording,
        recording_given=dataset is not None,
        frame_size=training.frame_size,
    )
    items = answer(selection)
    fits = next(item for item in items if item.key == "dataset").ok
    return Playable(
        what=what or (run.name if run is not None else ""),
        run=run,
        game=game,
        checkpoints={stage: one.directory for stage, one in checkpoints.items()},
        steps={stage: one.step for stage, one in checkpoints.items()},
        dataset=recording if fits else None,
        training=training,
        items=items,
    )


def check(chosen: Playable, *, as_json: bool) -> int:
    """Print the checklist; 0 when every item could be answered, with yes or no, else 1."""
    if as_json:
        say_json(json.dumps(_json(chosen), indent=2))
    else:
        say(_text(chosen))
    return 0 if all(item.ok is not None for item in chosen.items) else 1


# --- choosing ---------------------------------------------------------------------------------------------


def _named(what: str, root: Path) -> Path:
    try:
        return run_directory(what, root).path
    except BundleError:
        meant = closest(what, list(SELECTORS))
        hint = f" Did you mean {meant}?" if meant else ""
        raise UsageError(
            f"{what}: neither a game ({', '.join(SELECTORS)}), nor a run with checkpoints under {root}, "
            f"nor a directory with one.{hint}"
        ) from None


def _training(found: Found) -> TrainingConfig:
    """How recordings are read, as the last stage there is was trained."""
    config: dict[str, Any] = {}
    for stage in STAGES:
        if stage in found.checkpoints:
            config |= found.checkpoints[stage].config
    said = {key: config[key] for key in WINDOWS if config.get(key) is not None}
    try:
        return TrainingConfig.model_validate(said)
    except ValueError as error:
        raise CheckpointError(f"the checkpoints' config cannot be used: {error}") from error


def _dataset_name(found: Found) -> str:
    """What the newest stage was trained on, as it was called; empty if nothing tells."""
    names = [found.checkpoints[stage].config.get("dataset") for stage in STAGES if stage in found.checkpoints]
    return next((name for name in reversed(names) if isinstance(name, str) and name), "")


def _game(run: Path | None, found: Found) -> str:
    if run is not None and (game := game_of_run(run)):
        return game
    name = _dataset_name(found)
    return game_of(Path(name)) if name else ""


def _recording(found: Found, game: str, given: str | None) -> Path | None:
    """The recording that is meant; it may be missing."""
    if given is not None:
        return dataset_path(given, DATA)
    own = dataset_path(name, DATA) if (name := _dataset_name(found)) else None
    of_game = (DATA / f"{game}_frames.h5").absolute() if game else None
    there = (path for path in (own, of_game) if path is not None and os.path.isfile(path))  # noqa: PTH113
    return next(there, of_game or own)


# --- printing ---------------------------------------------------------------------------------------------


def _text(chosen: Playable) -> str:
    lines = [f"{chosen.what}: {chosen.run or 'no run'}"]
    for item in chosen.items:
        mark = {True: "yes", False: "NO ", None: "?  "}[item.ok]
        lines += [f"  {mark} {item.question}", f"      {item.answer}"]
        if item.cure:
            lines.append(f"      -> {item.cure}")
    lines.append("playable" if chosen.ready else "not playable")
    return "\n".join(lines)


def _json(chosen: Playable) -> dict[str, Any]:
    return {
        "what": chosen.what,
        "run": None if chosen.run is None else str(chosen.run),
        "game": chosen.game,
        "playable": chosen.ready,
        "checkpoints": {
            stage: {"path": str(path), "step": chosen.steps[stage]}
            for stage, path in chosen.checkpoints.items()
        },
        "dataset": None if chosen.dataset is None else str(chosen.dataset),
        "items": [{"question": item.question, **asdict(item)} for item in chosen.items],
    }
