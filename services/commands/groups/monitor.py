"""`worldloop monitor`: what the monitor sees on this machine."""

from __future__ import annotations

import typer

from services.commands.groups.arguments import Json
from services.commands.groups.overview import group

monitor = group("Look through the monitor's eyes.")


@monitor.callback()
def _group() -> None:
    """Look through the monitor's eyes."""


@monitor.command("gpus")
def gpus(as_json: Json = False) -> None:
    """Show each GPU, who works on it, and what the dual check would say.

    Exit code 0: GPUs were read; 1: there is none, or none can be read.
    """
    from services.commands import monitor_gpus as command

    raise typer.Exit(command.monitor_gpus(as_json=as_json))
