"""Declarations of `worldloop history`: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from services.commands import places
from services.commands.groups.arguments import Json, OutputRoot
from services.commands.groups.overview import group
from shared.errors import UsageError
from shared.events import Stage

history = group("The rows that training logged.")


@history.callback()
def _group() -> None:
    """The rows that training logged."""


@history.command("export")
def history_export(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|DIR|FILE",
            help="Run id, bundle, TinyWorlds run directory, wandb directory, .wandb or .csv file; default "
            "the newest run.",
        ),
    ] = None,
    stage: Annotated[Stage | None, typer.Option(help="Only this stage; or the stage a file is of.")] = None,
    form: Annotated[
        Literal["csv", "json"] | None, typer.Option("--format", help="Only this one. (default both)")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to. (default Logs/ of the bundle, else ./Logs)"),
    ] = None,
    output_root: OutputRoot = None,
    as_json: Json = False,
) -> None:
    """Write a run's history as <stage>_history_<run id>_latest.csv and .json, however long it is."""
    try:
        from services.commands import history as command
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is missing: pip install 'worldloop[monitor]'") from None
    root = places.root(output_root)
    raise typer.Exit(command.export(source, stage=stage, form=form, out=out, root=root, as_json=as_json))
