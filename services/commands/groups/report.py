"""Declarations of `worldloop report`: all reports of a run, or one of them."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import typer

from services.commands import places
from services.commands.groups.arguments import Json, OutputRoot, Run
from services.commands.groups.overview import Overview
from services.reporter.config import WandbSource
from shared.errors import UsageError
from shared.events import Stage

KINDS = ("loop", "git", "wandb", "retrospective", "inference")
ALL = "all"


class ReportGroup(Overview):
    """`report RUN` is `report all RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in where none is named."""
        named = args and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else [ALL, *args])


report = typer.Typer(
    cls=ReportGroup,
    rich_markup_mode=None,
    subcommand_metavar="[RUN] | COMMAND [ARGS]...",
    help="Write a run's reports again, from its bundle alone; `report RUN` is `report all RUN`.",
)


@report.callback()
def _group() -> None:
    """Write a run's reports again, from its bundle alone; `report RUN` is `report all RUN`."""
    from shared.settings import Settings

    # matplotlib would make a directory of its own under the user's configuration
    os.environ.setdefault("MPLCONFIGDIR", str(Settings().cache_dir / "matplotlib"))


@report.command(ALL)
def report_all(
    run: Run = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="|".join(KINDS),
            help="Only this one; may be repeated. (default those that the run's policy requires)",
        ),
    ] = None,
    output_root: OutputRoot = None,
    as_json: Json = False,
) -> None:
    """Write all reports of a run and its page again, wherever its bundle lies; no server is asked.

    Of a run that has not ended they say how far it is. Exit code 1: one could not be written.
    """
    _write(run, kind or [], output_root, as_json=as_json)


@report.command("loop")
def report_loop(run: Run = None, output_root: OutputRoot = None, as_json: Json = False) -> None:
    """Write the report on training, gate by gate."""
    _write(run, ["loop"], output_root, as_json=as_json)


@report.command("inference")
def report_inference(run: Run = None, output_root: OutputRoot = None, as_json: Json = False) -> None:
    """Write the report from checkpoints to the inference gate."""
    _write(run, ["inference"], output_root, as_json=as_json)


@report.command("retrospective")
def report_retrospective(run: Run = None, output_root: OutputRoot = None, as_json: Json = False) -> None:
    """Write what changed on the way, why, and what to do in the next cycle."""
    _write(run, ["retrospective"], output_root, as_json=as_json)


@report.command("wandb")
def report_wandb(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|DIR|FILE",
            help="Run id, bundle, TinyWorlds run directory, wandb directory, .wandb, .csv or .json file; "
            "default the newest run.",
        ),
    ] = None,
    origin: Annotated[
        WandbSource | None,
        typer.Option("--source", help="Where rows come from. (default the run's policy, else api_first)"),
    ] = None,
    stage: Annotated[
        Stage | None, typer.Option(help="Of a foreign run only this stage; or the stage a file is of.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the report of a foreign run goes. (default ./docs/action)"),
    ] = None,
    output_root: OutputRoot = None,
    as_json: Json = False,
) -> None:
    """Write the W&B analysis of a run, of any trainer: loss, learning rate, codebook, actions.

    Asks W&B's API anew where the source says so; the report of a bundle is written in place.
    """
    command = _histories()
    root = places.root(output_root)
    raise typer.Exit(command.wandb(source, source=origin, stage=stage, out=out, root=root, as_json=as_json))


@report.command("compare")
def report_compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN RUN [RUN ...]", help="As for `report wandb`; at least two.")
    ],
    stage: Annotated[Stage | None, typer.Option(help="Only this stage. (default all that two have)")] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where to. (default docs/action of the newest bundle, else ./docs/action)"
        ),
    ] = None,
    output_root: OutputRoot = None,
    as_json: Json = False,
) -> None:
    """Compare runs stage by stage from local files: what was configured differently, what came of it."""
    command = _histories()
    root = places.root(output_root)
    raise typer.Exit(command.compare(runs, stage=stage, into=into, root=root, as_json=as_json))


def _histories() -> ModuleType:
    try:
        from services.commands import report_wandb
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is missing: pip install 'worldloop[reporter]'") from None
    return report_wandb


@report.command("git")
def report_git(
    run: Run = None,
    repo: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The repository. (default the run's; without a run, here)"),
    ] = None,
    game: Annotated[
        str | None, typer.Option(metavar="NAME", help="The game; with no RUN beside it, no run is needed.")
    ] = None,
    year: Annotated[
        int | None, typer.Option(help="Of the commits, UTC. (default the run's, else 2025)")
    ] = None,
    mode: Annotated[
        Literal["strict", "wide", "current_paths"] | None,
        typer.Option(help="Which commits count. (default the run's, else strict)"),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to. (default the run's bundle; other questions to stdout)"),
    ] = None,
    limit_sec: Annotated[float, typer.Option(min=0, help="Seconds that git may take.")] = 300,
    output_root: OutputRoot = None,
    as_json: Json = False,
) -> None:
    """Ask a git history which commits of a year touch training, inference or config files and name a game.

    Exit code 0: the history was read, whatever is in it; 1: it could not be read, and the report says why.
    """
    try:
        from services.commands import report_git as command
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is missing: pip install 'worldloop[reporter]'") from None
    options = command.GitOptions(run, places.root(output_root), repo, game, year, mode, into, limit_sec)
    raise typer.Exit(command.report_git(options, as_json=as_json))


def _write(run: str | None, kinds: list[str], output_root: Path | None, *, as_json: bool) -> None:
    from services.commands import report as command

    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UsageError(f"--kind {unknown[0]}: no such report; there are {', '.join(KINDS)}")
    root = places.root(output_root)
    raise typer.Exit(command.report(run, kinds=kinds, root=root, as_json=as_json))
