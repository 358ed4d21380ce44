"""`worldloop report wandb` and `report compare`: histories analysed by hand, of runs of any trainer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.commands import places
from services.commands.histories_of import Foreign, bundle_or_foreign
from services.commands.terminal.output import say, say_json
from services.reporter.bundled import newest
from services.reporter.config import WandbSource
from services.reporter.core.wandb.comparison import by_stage, comparison, comparison_document
from services.reporter.core.wandb.history import StageHistory
from services.reporter.wandb import bundle as ours
from services.reporter.wandb import foreign
from services.reporter.wandb.plots import draw_comparison
from services.reporter.wandb_analysis import NAME, write_analysis, write_wandb
from shared.bundle import Bundle, write_atomic
from shared.errors import BundleError, UsageError
from shared.events import Stage

LONGEST_NAME = 120
"""Characters of a comparison's file name; of more runs than fit, a checksum stands for them."""


def wandb(
    argument: str | None,
    *,
    source: WandbSource | None,
    stage: Stage | None,
    out: Path | None,
    root: Path,
    as_json: bool,
) -> int:
    """Write the W&B analysis of a run and print where it is.

    Args:
        argument: Run id, bundle, run directory, wandb directory or history; none is the newest run.
        source: Where the history comes from; none is what the run's policy says, else `api_first`.
        stage: Of a foreign run, only this one; or the stage a single file is of.
        out: Where the report of a foreign run goes; none is `docs/action` here.
        root: Output root, for run ids.
        as_json: Print the JSON document instead.

    Returns:
        0.

    Raises:
        WorldloopError: There is no such history, or only the API may be used and does not have it.
    """
    found = bundle_or_foreign(argument, root, stage)
    try:
        if isinstance(found, Foreign):
            asked = source or "api_first"
            path = (out or Path("docs/action")) / f"{NAME}-{found.stamp}.md"
            write_analysis(path, found.name, asked, foreign.histories(found.files, asked), in_bundle=False)
        else:
            path = found / write_wandb(newest(found), source)
    except OSError as error:
        raise BundleError(f"{error.filename or found}: {error.strerror}") from error
    _say(path, as_json=as_json)
    return 0


def compare(
    arguments: Sequence[str], *, stage: Stage | None, into: Path | None, root: Path, as_json: bool
) -> int:
    """Compare runs stage by stage and print where the report is.

    It goes to `docs/action` of the newest bundle among them; without a bundle to `docs/action` here.

    Args:
        arguments: Run ids, bundles, run directories, wandb directories or histories; at least two.
        stage: Only this one.
        into: Where to instead.
        root: Output root, for run ids.
        as_json: Print the JSON document instead.

    Returns:
        0.

    Raises:
        WorldloopError: A run has no history, or no stage is in two of them.
    """
    if len(arguments) < 2:
        raise UsageError("two runs or more are compared; name them")
    found = [bundle_or_foreign(argument, root, stage) for argument in arguments]
    names = [_name(each) for each in found]
    if len(set(names)) < len(names):
        names = [argument.rstrip("/") for argument in arguments]
    if len(set(names)) < len(names):
        raise UsageError("the same run is named twice; name different ones")
    runs = {name: _histories(each) for name, each in zip(names, found, strict=True)}
    stages = by_stage(runs, stage)
    if not stages:
        raise BundleError(f"no two of {', '.join(names)} have a history of {stage or 'the same stage'}")
    folder = into or _folder([each for each in found if isinstance(each, Path)])
    alone = {
        each.stage: name
        for name, histories in runs.items()
        for each in histories
        if each.stage not in stages and stage in (None, each.stage)
    }
    try:
        path = _write(folder / f"{_file_name(names)}.md", stages, alone)
    except OSError as error:
        raise BundleError(f"{error.filename or folder}: {error.strerror}") from error
    _say(path, as_json=as_json)
    return 0


def _say(report: Path, *, as_json: bool) -> None:
    """Where the report is, or what its JSON document says; of a run without a history there is none."""
    document = report.with_suffix(".json")
    if not as_json:
        say(str(report))
    else:
        say_json(document.read_text().rstrip("\n") if document.is_file() else "{}")


def _write(
    path: Path, stages: Mapping[Stage, Mapping[str, StageHistory]], alone: Mapping[Stage, str]
) -> Path:
    plots: dict[Stage, str] = {}
    for stage, runs in stages.items():
        picture = path.parent / "plots" / path.stem / f"{stage}.png"
        draw_comparison(picture, stage, {name: each.counted for name, each in runs.items()})
        if picture.is_file():
            plots[stage] = picture.relative_to(path.parent).as_posix()
    document = json.dumps({"stages": comparison_document(stages), "plots": plots}, indent=2)
    write_atomic(path.with_suffix(".json"), document + "\n")
    write_atomic(path, comparison(stages, plots, alone))
    return path


def _histories(found: Path | Foreign) -> list[StageHistory]:
    """Histories from local files: a comparison of what is here asks no server."""
    if isinstance(found, Foreign):
        return foreign.histories(found.files, "local_only")
    request = newest(found)
    return ours.histories(request.bundle, request.story, "local_only", again=True)


def _name(found: Path | Foreign) -> str:
    """A foreign run's name; a bundle's run id, also where it was moved to."""
    return found.name if isinstance(found, Foreign) else places.find_run(str(found), found.parent).run_id


def _folder(bundles: Sequence[Path]) -> Path:
    """Reports of the newest bundle, by run id; of none, those of the working directory."""
    if not bundles:
        return Path("docs/action")
    return Bundle(max(bundles, key=lambda path: places.order(_name(path))), "").reports


def _file_name(names: Sequence[str]) -> str:
    whole = "-vs-".join("".join(c if c.isalnum() or c in "._-" else "_" for c in name) for name in names)
    if len(whole) > LONGEST_NAME:
        whole = f"{len(names)}-runs-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"
    return f"run-comparison-{whole}"
