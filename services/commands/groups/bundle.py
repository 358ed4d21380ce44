"""Declarations of `worldloop bundle`: list, verify, move, prune."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from services.commands import places
from services.commands.groups.arguments import Json, OutputRoot, Run
from services.commands.groups.overview import group

bundle = group("List, verify, move and prune the bundles of runs.")


@bundle.command("list")
def bundle_list(output_root: OutputRoot = None, as_json: Json = False) -> None:
    """Show every bundle: status, complete or not, size, stages, newest checkpoint, last event."""
    from services.commands import bundle as command

    root = places.root(output_root)
    raise typer.Exit(command.list_bundles(root=root, now=datetime.now(UTC), as_json=as_json))


@bundle.command("verify")
def bundle_verify(
    run: Run = None,
    seal: Annotated[
        bool,
        typer.Option("--seal", help="If nothing is wrong, write a manifest of all files into docs/action/."),
    ] = False,
    output_root: OutputRoot = None,
    as_json: Json = False,
) -> None:
    """Say what is wrong with a bundle, file by file. Exit code 1: something is.

    Looked at: events whole and in order, files they name, checkpoints' checksums, reports' links, and the
    checksums of the newest manifest that a move or --seal left.
    """
    from services.commands import bundle as command

    root = places.root(output_root)
    code = command.verify_bundle(run, root=root, seal=seal, now=datetime.now(UTC), as_json=as_json)
    raise typer.Exit(code)


@bundle.command("move")
def bundle_move(
    run: Annotated[str, typer.Argument(metavar="RUN|DIR", help="Run id or bundle directory.")],
    to: Annotated[
        Path,
        typer.Argument(metavar="TO", help="A directory that is there, e.g. another output root; or a name."),
    ],
    output_root: OutputRoot = None,
) -> None:
    """Relocate the bundle of a run that is over.

    Every checksum is verified in the new place before anything is deleted. A move that was cut goes on with
    the same command. Nothing is overwritten.
    """
    from services.commands import bundle as command

    root = places.root(output_root)
    raise typer.Exit(command.move_bundle(run, to, root=root, now=datetime.now(UTC)))


@bundle.command("prune")
def bundle_prune(
    run: Run = None,
    keep_last: Annotated[
        int | None,
        typer.Option(min=1, help="Newest valid checkpoints of a stage that stay. (trainer.keep_last)"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output_root: OutputRoot = None,
    as_json: Json = False,
) -> None:
    """Delete checkpoints nobody needs, and what killed writers left, from the bundle of a run that is over.

    Stay: the newest valid ones, every accepted gate's, the best, selected and given ones, where
    training would go on, and those a report speaks of. Exit code 2: nobody could be asked.
    """
    from services.commands import bundle as command

    code = command.prune_bundle(
        run,
        root=places.root(output_root),
        keep_last=keep_last,
        dry_run=dry_run,
        yes=yes,
        as_json=as_json,
    )
    raise typer.Exit(code)
