"""`worldloop checkpoints`: what there is, whether it can be used, and one run directory made of several.

Files are read without running code from them (`shared.worldmodel.safe_load`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from services.commands import places
from services.commands.checkpoints.found import checkpoints_of, game_of_run
from services.commands.checkpoints.rows import Row, look_at, run_of
from services.commands.terminal.output import CleanConsole, say, say_json
from shared.datasets.names import game_of
from shared.errors import CheckpointError, UsageError
from shared.events import STAGES, Stage
from shared.worldmodel.build import model_of
from shared.worldmodel.checkpoints import Checkpoint, architecture_of, check_same_architecture
from shared.worldmodel.merge import merge as merge_into
from shared.worldmodel.upstream import check_trained_together

GAME = re.compile(r"[a-z0-9_]+")


def list_checkpoints(arguments: Sequence[str], *, root: Path, as_json: bool) -> int:
    """Print every checkpoint that lies in some places; 0, whether they are valid or not.

    Raises:
        UsageError: There is none in one of the places.
    """
    look = look_at(arguments, root)
    if as_json:
        shown = [_json(row) for row in look.rows]
        say_json(json.dumps({"checkpoints": shown, "notes": look.notes}, indent=2))
        return 0
    console = CleanConsole()
    for place, rows in groupby(look.rows, key=lambda row: run_of(Path(row.path))):
        console.print(_table(place, list(rows)))
    for row in look.rows:
        if row.problem is not None:
            say(_invalid(row))
    for note in look.notes:
        say(f"note: {note}")
    return 0


def validate(arguments: Sequence[str], *, root: Path, as_json: bool) -> int:
    """Print of each checkpoint in some places whether it is valid; 1 if one is not.

    Raises:
        UsageError: There is none in one of the places.
    """
    rows = look_at(arguments, root).rows
    valid = all(row.valid for row in rows)
    if as_json:
        shown = [{"path": row.path, "valid": row.valid, "problem": row.problem} for row in rows]
        say_json(json.dumps({"valid": valid, "checkpoints": shown}, indent=2))
    else:
        for row in rows:
            say(f"valid    {row.path}: {row.step} updates" if row.valid else _invalid(row))
    return 0 if valid else 1


def merge(
    sources: Sequence[str],
    *,
    into: Path,
    game: str | None,
    frame_size: int | None,
    context_length: int | None,
    now: datetime,
    root: Path,
    as_json: bool,
) -> int:
    """Make one run directory of valid checkpoints of different runs, and say where it is.

    Args:
        sources: Checkpoints and runs; a stage comes from the first that has a valid one of it.
        into: Directory that gets `results/<timestamp>_<game>/`, or a `results` directory itself.
        game: Name of the game; none takes the one of the run that dynamics comes from.
        frame_size: Of old single files that do not say.
        context_length: Likewise.
        now: For the name; UTC.
        root: Output root, for run ids.
        as_json: Print JSON.

    Raises:
        UsageError: A source adds nothing, or nothing tells the game.
        CheckpointError: A stage has no valid checkpoint, or those found do not belong together.
    """
    unsaid = {"frame_size": frame_size, "context_length": context_length}
    chosen = _choose(sources, root, {key: value for key, value in unsaid.items() if value is not None})
    check_same_architecture(
        {str(one.directory): architecture_of(one.config, stage) for stage, one in chosen.items()}
    )
    for one in chosen.values():
        model_of(one)
    notes = check_trained_together(chosen)
    into = into.absolute()
    results = into if into.name == "results" else into / "results"
    target = results / places.run_name(now, _game(game, chosen["dynamics"]))
    try:
        copies = merge_into(chosen, target)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error}. Choose another --into") from error
    if as_json:
        report = {
            "run": str(target),
            "checkpoints": {
                stage: {"path": str(copies[stage]), "step": one.step, "from": str(one.directory)}
                for stage, one in chosen.items()
            },
            "notes": notes,
        }
        say_json(json.dumps(report, indent=2))
        return 0
    say(str(target))
    for stage, one in chosen.items():
        say(f"  {stage}: {one.step} updates, from {one.directory}")
    for note in notes:
        say(f"  note: {note}")
    return 0


# --- merging ----------------------------------------------------------------------------------------------


def _choose(sources: Sequence[str], root: Path, unsaid: Mapping[str, int]) -> dict[Stage, Checkpoint]:
    """Of each stage the checkpoint of the first source that has a valid one."""
    chosen: dict[Stage, Checkpoint] = {}
    reasons: list[str] = []
    for source in sources:
        found = checkpoints_of(source, root, unsaid=unsaid)
        reasons += [reason for each in found.passed_over.values() for reason in each]
        if not found.checkpoints:
            raise CheckpointError(f"{source}: no valid checkpoint there{found.reasons(STAGES)}")
        if not found.checkpoints.keys() - chosen.keys():
            raise UsageError(
                f"{source} adds nothing: {', '.join(found.checkpoints)} come from sources before it. "
                "Leave it out, or name it first"
            )
        chosen = found.checkpoints | chosen
    if missing := [stage for stage in STAGES if stage not in chosen]:
        why = f" ({'; '.join(reasons)})" if reasons else ""
        raise CheckpointError(
            f"no valid checkpoint of {' and of '.join(missing)} in {', '.join(sources)}{why}: "
            "name a source that has one"
        )
    return {stage: chosen[stage] for stage in STAGES}


def _game(asked: str | None, dynamics: Checkpoint) -> str:
    """What a merged run is called: as asked, as the run dynamics comes from, or as its recording."""
    dataset = str(dynamics.config.get("dataset") or "")
    game = asked or game_of_run(run_of(dynamics.directory)) or (game_of(Path(dataset)) if dataset else "")
    if not GAME.fullmatch(game):
        said = f"--game {asked} cannot be part of a name" if asked else "nothing tells which game it is"
        raise UsageError(f"{said}: say it with --game, in small letters, digits and _, e.g. zelda")
    return game


# --- printing ---------------------------------------------------------------------------------------------


def _json(row: Row) -> dict[str, object]:
    return {
        "path": row.path,
        "stage": row.stage,
        "step": row.step,
        "valid": row.valid,
        "problem": row.problem,
        "size_bytes": row.size_bytes,
        "architecture": row.architecture,
        "trained_on": [each.model_dump() for each in row.trained_on],
        "accepted": row.accepted,
        "best": row.best,
    }


def _table(place: Path, rows: list[Row]) -> Table:
    """Checkpoints of a run by name; their architectures below, where they can be compared."""
    table = Table(title=escape(str(place)), title_justify="left", caption_justify="left")
    table.add_column("checkpoint", no_wrap=True)
    for column in ("updates", "MB", "state", "gate", "trained on"):
        table.add_column(column, overflow="fold")
    for row in rows:
        state = "valid" if row.valid else "[red]invalid[/]"
        gate = " ".join(word for word, is_so in (("accepted", row.accepted), ("best", row.best)) if is_so)
        recordings = escape(", ".join(Path(each.name).name for each in row.trained_on))
        step = "?" if row.step is None else str(row.step)
        table.add_row(
            escape(Path(row.path).name), step, f"{row.size_bytes / 1e6:.1f}", state, gate, recordings
        )
    shapes = {
        stage: " ".join(f"{key}={value}" for key, value in row.architecture.items())
        for stage in STAGES
        for row in rows
        if row.stage == stage and row.architecture
    }
    table.caption = escape("\n".join(f"{stage}: {shape}" for stage, shape in shapes.items()))
    return table


def _invalid(row: Row) -> str:
    return f"invalid  {row.problem}"
