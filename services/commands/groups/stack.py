"""Declarations of `worldloop up` and `down`."""

from __future__ import annotations

from typing import Annotated

import typer


def up(
    port: Annotated[
        int | None,
        typer.Option(help="Port of the NATS server on the loopback interface; default a free one."),
    ] = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay, and end the stack with Ctrl-C.")
    ] = False,
) -> None:
    """Start the embedded stack: nats-server and the five services, supervised."""
    from services import stack
    from services.commands.terminal.output import say, warn
    from shared.settings import Settings
    from shared.web import place

    settings = Settings()
    state = stack.up(settings, port=port, foreground=foreground)
    if foreground:
        return
    say(f"{state.url}  {', '.join(child.name for child in state.children)}")
    if (page := place.address(settings)) is not None:
        say(f"live page: {page}")
    for problem in state.problems:
        warn(problem)
    raise typer.Exit(1 if state.problems else 0)


def down() -> None:
    """End the embedded stack, and nothing else."""
    from services import stack
    from services.commands.terminal.output import say
    from shared.settings import Settings

    ended = stack.down(Settings())
    say(f"ended {', '.join(ended)}" if ended else "nothing was running")
