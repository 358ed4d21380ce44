"""What a RUN|DIR|FILE argument of the history reports stands for: a bundle, or files of a foreign run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from services.commands import places
from services.commands.history import stage_of, wandb_or_csv
from services.commands.places import EVENTS_FILE
from services.commands.terminal.output import warn
from services.diagnosis import layout
from shared.bundle import check_inside
from shared.errors import BundleError
from shared.events import RUN_ID, STAGES, Stage
from shared.home import expanded


@dataclass(frozen=True, slots=True)
class Foreign:
    """A run that worldloop did not start."""

    name: str
    stamp: str
    """`YYYY_MM_DD_HH_MM_SS` of its newest file: reports of the same files have the same name."""
    files: dict[Stage, list[Path]] = field(default_factory=dict)
    """Stage -> histories in the order in which they were written."""


def bundle_or_foreign(argument: str | None, root: Path, only: Stage | None) -> Path | Foreign:
    """A bundle's directory, or the histories that another place holds.

    Args:
        argument: Run id, bundle, run directory, wandb directory or history; none is the newest run.
        root: Output root, for run ids.
        only: Only this stage; or the stage a single file is of.

    Raises:
        BundleError: There is none; says what was looked for.
    """
    if argument is None or RUN_ID.fullmatch(argument):
        return places.bundle_found(argument, root)
    path = expanded(argument)
    if not path.exists():
        raise BundleError(f"{path}: there is no such file or directory, and it is no run id")
    if not (path / EVENTS_FILE).is_file():
        return _foreign(path, only)
    check_inside(path)
    return path


def _foreign(path: Path, only: Stage | None) -> Foreign:
    results = None if path.is_file() else layout.find_results(path)
    home = layout.home(results) if results is not None else path
    files = [path] if path.suffix == ".json" else wandb_or_csv(path)
    found: dict[Stage, list[Path]] = {}
    problems: list[str] = []
    for each in files or layout.exports(home):
        stage = only if only and len(files) == 1 else stage_of(each, problems)
        if stage is not None and only in (None, stage):
            # files of W&B follow each other; of exports the newest has all
            found[stage] = [*found.get(stage, []), each] if files else [each]
    if not found:
        why = "; ".join(problems) or "neither *.wandb, nor *history*.csv|json here or in Logs/"
        raise BundleError(f"{path}: no history of {only or 'any stage'}: {why}")
    for problem in problems:
        warn(f"left aside: {problem}")
    ordered: dict[Stage, list[Path]] = {stage: found[stage] for stage in STAGES if stage in found}
    name = results.path.name if results is not None else path.resolve().name
    if name == "wandb":
        name = path.resolve().parent.name
    return Foreign(name, _stamp([file for each in ordered.values() for file in each]), ordered)


def _stamp(files: Sequence[Path]) -> str:
    """When the newest file was begun, as its directory says; else when one was last changed."""
    begun = max(layout.stamp(file.parent.name) for file in files)
    time = (
        datetime.strptime(begun, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        if begun
        else datetime.fromtimestamp(max(file.stat().st_mtime for file in files), UTC)
    )
    return f"{time:%Y_%m_%d_%H_%M_%S}"
