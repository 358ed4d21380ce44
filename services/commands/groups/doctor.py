"""The declaration of `worldloop doctor`."""

from __future__ import annotations

from pathlib import Path

import typer

from services.commands import places
from services.commands.groups.arguments import Json, OutputRoot


def doctor(output_root: OutputRoot = None, as_json: Json = False) -> None:
    """Say what this machine has, and which commands will work on it."""
    from services.commands import doctor as command

    raise typer.Exit(command.doctor(root=places.root(output_root), data=Path("data"), as_json=as_json))
