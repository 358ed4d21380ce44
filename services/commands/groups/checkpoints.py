"""Declarations of `worldloop checkpoints`: list, validate, merge."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from services.commands import places
from services.commands.groups.arguments import Json, OutputRoot
from services.commands.groups.overview import group
from shared.errors import UsageError

checkpoints = group("List, validate and merge checkpoints of any run.")

Places = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATH",
        help="Run id, bundle, TinyWorlds run directory, checkpoints/ folder, step directory, .pth file, or a "
        "directory that holds some; default the newest run.",
    ),
]


@checkpoints.command("list")
def checkpoints_list(path: Places = None, output_root: OutputRoot = None, as_json: Json = False) -> None:
    """Show every checkpoint: stage, updates done, valid or why not, size, architecture, recordings, gates."""
    command = _work()
    root = places.root(output_root)
    raise typer.Exit(command.list_checkpoints(path or [], root=root, as_json=as_json))


@checkpoints.command("validate")
def checkpoints_validate(path: Places = None, output_root: OutputRoot = None, as_json: Json = False) -> None:
    """Read every checkpoint through, without running code from it. Exit code 1: one is not valid."""
    command = _work()
    root = places.root(output_root)
    raise typer.Exit(command.validate(path or [], root=root, as_json=as_json))


@checkpoints.command("merge")
def checkpoints_merge(
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="CHECKPOINT",
            help="Step directory, .pth file, checkpoints/ folder (newest valid) or run (newest valid of each "
            "stage). A stage comes from the first that has it.",
        ),
    ],
    into: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Gets results/<timestamp>_<game>/; a TinyWorlds checkout, for its play scripts. (default .)",
            show_default=False,
        ),
    ] = Path(),
    game: Annotated[
        str | None, typer.Option(help="Game in the new run's name. (default as the run dynamics comes from)")
    ] = None,
    frame_size: Annotated[
        int | None, typer.Option(min=1, help="Of an old .pth file that does not say.")
    ] = None,
    context_length: Annotated[int | None, typer.Option(min=2, help="Likewise.")] = None,
    output_root: OutputRoot = None,
    as_json: Json = False,
) -> None:
    """Make one run directory of valid checkpoints of different runs: cures "trained but not playable".

    Refused when architectures differ, or when dynamics says that it was trained with others. Copies are
    verified by checksum; a merge that is cut leaves nothing half, and nothing is overwritten.
    """
    command = _work()
    code = command.merge(
        source,
        into=into,
        game=game,
        frame_size=frame_size,
        context_length=context_length,
        now=datetime.now(UTC),
        root=places.root(output_root),
        as_json=as_json,
    )
    raise typer.Exit(code)


def _work() -> ModuleType:
    """The module that does the work; it reads checkpoints, and so needs torch."""
    try:
        from services.commands.checkpoints import commands as command
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is missing: pip install 'worldloop[trainer]'") from None
    return command
