"""Declarations of `worldloop notify`: show, test."""

from __future__ import annotations

import typer

from services.commands.groups.arguments import Json
from services.commands.groups.overview import group

notify = group("Who is told of pauses, ends and alerts.")


@notify.command("show")
def notify_show(as_json: Json = False) -> None:
    """Show the notification file: who is told of what. Of a URL only its scheme is printed."""
    from services.commands import notify as command

    raise typer.Exit(command.show(as_json=as_json))


@notify.command("test")
def notify_test(as_json: Json = False) -> None:
    """Send each service a test message. Exit code 1: one of them did not take it."""
    from services.commands import notify as command

    raise typer.Exit(command.test(as_json=as_json))
