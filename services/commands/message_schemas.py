"""`worldloop schema`: what messages and outputs look like, for people and programs."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import typer
from pydantic import BaseModel

from services.bundles.listing import BundleRow
from services.commands.watching.seen import RunSeen
from services.diagnosis.core.model import Diagnosis, Gate
from services.reporter.core.page.model import Page
from services.schemas import glossary, models
from services.schemas.asyncapi import document
from services.schemas.published import as_text, published
from shared.bundle import write_atomic
from shared.errors import UsageError
from shared.events import Message

OUTPUTS: dict[str, type[BaseModel]] = {
    "page": Page,
    "watch-path": RunSeen,
    "diagnose": Diagnosis,
    "gate": Gate,
    "bundle-row": BundleRow,
}
"""What `--json` prints where a model says so; `page` is what `status`, `watch` and `train` print."""


def schema(name: str | None, *, into: Path | None, as_json: bool) -> int:
    """Print an overview, one message, or write everything into a directory.

    Raises:
        UsageError: There is no such message or output.
        OSError: The directory cannot be written.
    """
    if into is not None:
        for path, text in published(OUTPUTS, version("worldloop")).items():
            write_atomic(into / path, text)
        typer.echo(f"{into / 'asyncapi.json'}, {into / 'events.md'} and outputs/ beside them")
        return 0
    if name is None:
        if as_json:
            typer.echo(as_text(document(version("worldloop"))), nl=False)
        else:
            _overview()
        return 0
    model = _named(name)
    if as_json or not issubclass(model, Message):
        typer.echo(json.dumps(models.schema_of(model), indent=2))
    else:
        typer.echo(glossary.entry(model))
    return 0


def _overview() -> None:
    for name, sent_by, what in glossary.overview():
        typer.echo(f"{name:<36} {sent_by:<28} {what}")


def _named(name: str) -> type[BaseModel]:
    known: dict[str, type[BaseModel]] = {models.key_of(each): each for each in models.messages()} | OUTPUTS
    found = [known[key] for key in known if name in (key, key.rpartition(".")[2])]
    if len(found) == 1:
        return found[0]
    several = [key for key in known if name in key]
    raise UsageError(f"{name}: one of {', '.join(several or known)}")
