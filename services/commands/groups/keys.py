"""Declarations of `worldloop keys`: init, show, renew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from services.commands.groups.arguments import Json
from services.commands.groups.overview import group

keys = group("Who may connect to the NATS server: keys, certificates.")

Directory = Annotated[
    Path | None,
    typer.Option("--dir", metavar="DIR", help="Where the keys are; default in the user's configuration."),
]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--host", metavar="NAME", help="Name or address of the server; may be repeated."),
]


@keys.command("init")
def keys_init(directory: Directory = None, host: Hosts = None) -> None:
    """Make what is missing: keys of services, operator and observer, TLS, the server's file of users."""
    from services.commands import keys as command

    raise typer.Exit(command.init(directory, host or []))


@keys.command("show")
def keys_show(directory: Directory = None, as_json: Json = False) -> None:
    """Show whose keys are there and until when the certificates hold. Exit code 1: something is wrong."""
    from services.commands import keys as command

    raise typer.Exit(command.show(directory, as_json=as_json))


@keys.command("renew")
def keys_renew(directory: Directory = None, host: Hosts = None) -> None:
    """Make a new certificate for the server, which clients trust without any change."""
    from services.commands import keys as command

    raise typer.Exit(command.renew(directory, host or []))
