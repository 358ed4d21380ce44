"""`worldloop notify`: who is told, as configured, and whether it works."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import typer

from services.commands.terminal.output import say
from services.reporter import notify_file
from services.reporter.core.notices import TOLD, trial
from services.reporter.notify_services import AppriseRecipient, recipients
from shared.errors import ConfigurationError
from shared.settings import Settings

EXAMPLE = (
    "urls:\n  team: slack://TokenA/TokenB/TokenC/#channel\n  mail: mailtos://user:password@example.com\n"
)


def show(*, as_json: bool) -> int:
    """Print what is configured; of a URL nothing but its scheme.

    Raises:
        ConfigurationError: The file cannot be used.
    """
    path = Settings().notify_file
    found = notify_file.read(path)
    known = recipients(found, path) if found is not None else []
    warning = notify_file.warning(path)
    tell = list(found.tell) if found is not None else []
    document = {
        "file": str(path),
        "exists": found is not None,
        "problem": warning,
        "tell": tell,
        "services": [_named(each) for each in known],
    }
    if as_json:
        typer.echo(json.dumps(document, indent=2))
        return 0
    if found is None:
        typer.echo(f"nobody is told of anything: there is no {path}. It could hold\n\n{EXAMPLE}")
    else:
        typer.echo(f"{path}\ntold: {', '.join(tell)}")
        typer.echo("\n".join(f"  {each.name}  {each.kind}  {each.masked}" for each in known))
    if warning is not None:
        typer.echo(warning, err=True)
    return 0


def test(*, as_json: bool) -> int:
    """Send a test message to each service and print what came of it.

    Returns:
        0 if all took it, else 1.

    Raises:
        ConfigurationError: There is no file, or it cannot be used.
    """
    path = Settings().notify_file
    found = notify_file.read(path)
    if found is None:
        cure = f"Write one that names who is told of {', '.join(TOLD)}: docs/notifications.md"
        raise ConfigurationError(str(path), "", "there is no such file", cure)
    known = recipients(found, path)
    problems = asyncio.run(_sent(known))
    rows = [
        _named(each) | {"sent": problem is None, "problem": problem}
        for each, problem in zip(known, problems, strict=True)
    ]
    if as_json:
        typer.echo(json.dumps({"file": str(path), "services": rows}, indent=2))
    else:
        for row in rows:
            say(f"{row['name']}  {row['service']}  {row['problem'] or 'sent'}")
    return 0 if all(problem is None for problem in problems) else 1


async def _sent(known: Sequence[AppriseRecipient]) -> list[str | None]:
    return list(await asyncio.gather(*(each.send(trial(each.name)) for each in known)))


def _named(recipient: AppriseRecipient) -> dict[str, Any]:
    return {"name": recipient.name, "service": recipient.kind, "url": recipient.masked}
