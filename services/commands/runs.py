"""Which run is meant, what is known of it, its events, and an operator's wishes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from pydantic import JsonValue

from services.commands import connection, places
from services.commands.configuration.dotted_keys import Setting
from services.commands.configuration.resolve import assignments
from services.commands.places import RunRef
from services.commands.terminal.output import say, say_json
from services.commands.watching import render
from services.commands.watching.follow import request_id
from shared.bus.journal import read_journal, to_line
from shared.bus.protocol import Bus, Recorded
from shared.config import KNOBS
from shared.errors import BundleError, UsageError
from shared.events import (
    NO_RUN,
    STAGES,
    CommandRejected,
    OperatorCommand,
    OperatorRequested,
    PauseRun,
    ResumeRun,
    RetuneRun,
    Stage,
    StopRun,
)

ANSWER_SEC = 30.0
"""How long an operator's command waits for the gatekeeper to take it."""


async def locate(argument: str | None, bus: Bus | None, root: Path) -> RunRef:
    """The run that an argument names, else the newest one; its bundle is not looked into.

    Raises:
        BundleError: There is none.
    """
    if argument is not None:
        return places.named_run(argument, root)
    known = {run.run_id: run for run in places.bundles(root)}
    if bus is not None:
        for recorded in await bus.events():
            if (run_id := recorded.message.run_id) != NO_RUN:
                known.setdefault(run_id, RunRef(run_id, None))
    if not known:
        raise BundleError(f"no run on the server and none under {root}; start one with `worldloop train`")
    return known[max(known, key=places.order)]


async def past(run: RunRef, bus: Bus | None) -> list[Recorded]:
    """A run's events so far: from the server if it knows the run, else from the bundle.

    Raises:
        BundleError: Neither knows it, or something in the bundle leads out of it.
    """
    if bus is not None and (found := await bus.events(run.run_id)):
        return found
    if run.bundle is None:
        where = "the server does not know it" if bus is not None else "no server is up"
        raise BundleError(
            f"{run.run_id}: {where}, and its bundle is not under the output root; give the bundle's path"
        )
    places.checked(run)
    return read_journal(run.bundle / places.EVENTS_FILE)


async def events(
    argument: str | None, *, nats_url: str | None, root: Path, follow_on: bool, as_json: bool
) -> int:
    """Print a run's events, with `follow_on` also those to come."""
    show = _print_json if as_json else _print_line
    if follow_on:
        async with connection.connect(nats_url) as bus:
            run = await locate(argument, bus, root)
            async for recorded in bus.follow(("event",), run.run_id):
                show(recorded)
    async with connection.connect_if_up(nats_url) as found:
        run = await locate(argument, found, root)
        for recorded in await past(run, found):
            show(recorded)
    return 0


async def pause(argument: str | None, *, nats_url: str | None, root: Path) -> int:
    """Pause a run at its next gate."""
    return await _wish(
        argument,
        nats_url,
        root,
        lambda run: PauseRun(run_id=run, request_id=request_id()),
        "pauses at the next gate",
    )


async def resume(argument: str | None, *, nats_url: str | None, root: Path) -> int:
    """Go on with a paused, stopped or failed run."""
    return await _wish(
        argument, nats_url, root, lambda run: ResumeRun(run_id=run, request_id=request_id()), "goes on"
    )


async def stop(argument: str | None, *, nats_url: str | None, root: Path) -> int:
    """End a run after its current update and a checkpoint."""
    return await _wish(
        argument,
        nats_url,
        root,
        lambda run: StopRun(run_id=run, request_id=request_id()),
        "ends after its current update",
    )


async def retune(words: list[str], *, stage: Stage | None, nats_url: str | None, root: Path) -> int:
    """Patch a run's next plan."""
    argument = words[0] if words and "=" not in words[0] else None
    texts = words if argument is None else words[1:]
    if not texts:
        raise UsageError(f"retune what? Give KEY=VALUE with one of {', '.join(KNOBS)}")
    chosen, changes = knobs(texts, stage)
    return await _wish(
        argument,
        nats_url,
        root,
        lambda run: RetuneRun(run_id=run, request_id=request_id(), changes=changes, stage=chosen),
        "takes it with its next plan",
    )


def knobs(texts: list[str], stage: Stage | None) -> tuple[Stage | None, dict[str, JsonValue]]:
    """`KEY=VALUE` arguments of retune: the stage they name, and the changes.

    Raises:
        UsageError: A key that cannot be changed while a run goes, or keys of several stages.
    """
    stages: set[Stage] = set() if stage is None else {stage}
    changes: dict[str, JsonValue] = {}
    for text in texts:
        found: list[Setting] = assignments([text])
        key = found[0].path[-1]
        if key not in KNOBS:
            raise UsageError(f"{text}: only {', '.join(KNOBS)} can be changed while a run goes")
        named = found[0].key.partition(".")[0]
        stages.update(name for name in STAGES if name == named)
        changes[key] = found[0].value
    if len(stages) > 1:
        raise UsageError(f"one stage at a time, not {' and '.join(sorted(stages))}")
    return next(iter(stages), None), changes


async def _wish(
    argument: str | None, nats_url: str | None, root: Path, make: Callable[[str], OperatorCommand], then: str
) -> int:
    async with connection.connect(nats_url) as bus:
        run = await locate(argument, bus, root)
        command = make(run.run_id)
        records = await past(run, bus)
        await bus.publish(command)
        after = records[-1].sequence if records else 0
        try:
            refusal = await asyncio.wait_for(_taken(bus, command, after), ANSWER_SEC)
        except TimeoutError:
            raise UsageError(
                f"{run.run_id}: the gatekeeper has not answered yet; the {command.name} waits for it"
            ) from None
    if refusal is not None:
        raise UsageError(f"{run.run_id}: refused: {refusal}")
    say(f"{run.run_id} {then}")
    return 0


async def _taken(bus: Bus, command: OperatorCommand, after: int) -> str | None:
    """Wait until the gatekeeper took a command; why it was refused, if it was."""
    async for recorded in bus.follow(("event",), command.run_id, after=after):
        match recorded.message:
            case CommandRejected(request_id=answered, reason=reason) if answered == command.request_id:
                return reason
            case OperatorRequested(request_id=answered) if answered == command.request_id:
                return None
    return None


def _print_json(recorded: Recorded) -> None:
    say_json(to_line(recorded))


def _print_line(recorded: Recorded) -> None:
    if (text := render.line(recorded)) is not None:
        say(text)
