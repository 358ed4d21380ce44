"""The declaration of `worldloop schema`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def schema(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A message or output, e.g. chunk_done; default all.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write asyncapi.json, events.md and outputs/ there."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="The AsyncAPI document, or the JSON Schema of NAME.")
    ] = False,
) -> None:
    """Show the messages on the bus and what `--json` prints: who sends, who reads, every field."""
    from services.commands import message_schemas as command

    raise typer.Exit(command.schema(name, into=into, as_json=as_json))
