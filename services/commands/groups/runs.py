"""Declarations of what looks at a run and steers it: status, watch, events, pause, resume, stop, retune."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from services.commands import places
from services.commands.groups.arguments import Json, NatsUrl, OutputRoot, Run
from shared.errors import UsageError
from shared.events import Stage


def status(
    run: Run = None, nats_url: NatsUrl = None, output_root: OutputRoot = None, as_json: Json = False
) -> None:
    """Show where a run is, once. Exit code 1 for one that failed or was stopped."""
    from services.commands.watching import commands as watched

    _finish(watched.status(run, nats_url=nats_url, root=places.root(output_root), as_json=as_json))


def watch(
    run: Run = None,
    path: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Look at the files of any run instead, e.g. results/<run> of TinyWorlds; needs no server.",
        ),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Print what is seen that often, e.g. 4h, and keep it in Logs/monitor_*.",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print what is seen, once.")] = False,
    profile: Annotated[
        str | None,
        typer.Option(
            help="With --path: judge by this profile's policy. (default the run's own, or policy.yaml)"
        ),
    ] = None,
    nats_url: NatsUrl = None,
    output_root: OutputRoot = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="What is seen as JSON: once, or a line each --every.")
    ] = False,
) -> None:
    """Follow a run until it ends, as its live page shows it; Ctrl-C leaves, the run goes on.

    Without a server the bundle's event file is followed. Exit code: the run's, as of `train`; 0 while it
    goes on.

    With --path the files of any run are looked at, whoever trains it: progress, loss, rate, newest checkpoint
    and picture, and whether one of them has been silent too long. Exit code then: 0, nothing is wrong; 1,
    something is.
    """
    if path is not None:
        try:
            from services.commands.watching import files as watch_path
        except ModuleNotFoundError as error:
            raise UsageError(f"{error.name} is missing: pip install 'worldloop[monitor]'") from None
        raise typer.Exit(watch_path.watch(path, every=every, once=once, as_json=as_json, profile=profile))
    if profile is not None:
        raise UsageError("--profile says how files are judged: give --path DIR")
    from services.commands.terminal.text import seconds
    from services.commands.watching import commands as watched

    pause = seconds(every) if every is not None else None
    root = places.root(output_root)
    if once or (as_json and pause is None):
        _finish(watched.status(run, nats_url=nats_url, root=root, as_json=as_json))
    _finish(watched.watch(run, nats_url=nats_url, root=root, every=pause, as_json=as_json))


def events(
    run: Run = None,
    follow: Annotated[bool, typer.Option("--follow", help="Also those to come.")] = False,
    nats_url: NatsUrl = None,
    output_root: OutputRoot = None,
    as_json: Annotated[bool, typer.Option("--json", help="One CloudEvent (JSON format) per line.")] = False,
) -> None:
    """Print a run's events, from the server or, without one, from the bundle."""
    from services.commands import runs

    _finish(
        runs.events(
            run,
            nats_url=nats_url,
            root=places.root(output_root),
            follow_on=follow,
            as_json=as_json,
        )
    )


def pause(run: Run = None, nats_url: NatsUrl = None, output_root: OutputRoot = None) -> None:
    """Pause a run at its next gate."""
    from services.commands import runs

    _finish(runs.pause(run, nats_url=nats_url, root=places.root(output_root)))


def resume(run: Run = None, nats_url: NatsUrl = None, output_root: OutputRoot = None) -> None:
    """Go on with a paused, stopped or failed run; its budgets start anew."""
    from services.commands import runs

    _finish(runs.resume(run, nats_url=nats_url, root=places.root(output_root)))


def stop(run: Run = None, nats_url: NatsUrl = None, output_root: OutputRoot = None) -> None:
    """End a run after its current update and a checkpoint; its reports are written."""
    from services.commands import runs

    _finish(runs.stop(run, nats_url=nats_url, root=places.root(output_root)))


def retune(
    words: Annotated[
        list[str], typer.Argument(metavar="[RUN] KEY=VALUE", help="Knobs, e.g. learning_rate=1e-4.")
    ],
    stage: Annotated[Stage | None, typer.Option(help="Stage to patch; default the current one.")] = None,
    nats_url: NatsUrl = None,
    output_root: OutputRoot = None,
) -> None:
    """Patch a run's next plan: knobs only, no budget spent."""
    from services.commands import runs

    _finish(runs.retune(words, stage=stage, nats_url=nats_url, root=places.root(output_root)))


def _finish(work: Coroutine[Any, Any, int]) -> None:
    """Run an asynchronous command to its exit code; Ctrl-C just ends it."""
    try:
        code = asyncio.run(work)
    except KeyboardInterrupt:
        code = 130
    raise typer.Exit(code)
