"""`worldloop train`: check everything, start what is needed, ask for the run, follow it to its end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from services import stack
from services.commands import connection, places
from services.commands.terminal.output import CleanConsole, say_json, tell
from services.commands.training.options import TrainOptions
from services.commands.training.start import Prepared, create, prepare
from services.commands.watching import render
from services.commands.watching.follow import (
    Screen,
    ask_at_terminal,
    follow,
    interrupts,
    request_id,
    with_page,
)
from services.commands.watching.news import from_bus
from services.commands.watching.sight import Sight
from services.reporter.core.page.fold import PageFold, fold_all
from shared.bus.journal import last_event
from shared.bus.protocol import Bus
from shared.errors import UsageError
from shared.events import OperatorCommand, ResumeRun, RunFinished, StartRun, StopRun
from shared.settings import Settings
from shared.web import place

EVENT_FILE_SEC = 10.0
"""How long a run that has ended may take to be told to its end in the bundle."""
EVENT_FILE_LOOK_SEC = 0.1


def train(options: TrainOptions, *, resume: str | None, nats_url: str | None, as_json: bool) -> int:
    """Run the closed loop and follow it.

    Args:
        options: The flags.
        resume: Run to go on with instead of starting one.
        nats_url: Existing server.
        as_json: Print the final page document as one JSON object on stdout; everything else goes to stderr.

    Returns:
        The exit code: 0 passed, stage_completed or detached; 1 failed or stopped.

    Raises:
        WorldloopError: Something cannot be used; nothing was started then.
    """
    if resume is not None and replace(options, output_root=None) != TrainOptions():
        raise UsageError(
            "--resume goes on with the run's own configuration: leave the other flags out, "
            "and change knobs with `worldloop retune`"
        )
    prepared = prepare(options) if resume is None else None
    console = CleanConsole(stderr=as_json)
    for notice in prepared.notices if prepared is not None else ():
        tell(console, f"Note: {notice}")
    started = connection.start_stack_if_needed(nats_url)
    if started is not None:
        page = place.address(Settings())
        where = [f"live page: {page}"] if page is not None else []
        for text in (f"started the embedded stack at {started.url}", *where, *started.problems):
            tell(console, text)
    left = False
    try:
        root = places.root(options.output_root) if prepared is None else prepared.root
        fold, left = asyncio.run(_session(prepared, resume, root, nats_url, console))
    finally:
        if started is not None and not left:
            stack.down(Settings())
    if left:
        for text in (
            f"Run {fold.run_id} goes on without you.",
            f"worldloop watch {fold.run_id}   look again",
            f"worldloop stop {fold.run_id}    end it after its current update",
            *(["worldloop down                    end the stack"] if started is not None else []),
        ):
            tell(console, text)
    else:
        for text in render.ending(fold.page(time.time())):
            tell(console, text)
    if as_json:
        say_json(fold.page(time.time()).model_dump_json(indent=2))
    return 0 if left else render.exit_code(fold.run)


async def _session(
    prepared: Prepared | None, resume: str | None, root: Path, nats_url: str | None, console: Console
) -> tuple[PageFold, bool]:
    async with connection.connect(nats_url) as bus:
        command: OperatorCommand
        if prepared is not None:
            command = await new_run(bus, prepared, datetime.now(UTC))
        else:
            assert resume is not None
            run = places.named_run(resume, root)
            command = ResumeRun(run_id=run.run_id, request_id=request_id())
        return await ask_and_follow(bus, command, console)


async def new_run(bus: Bus, prepared: Prepared, now: datetime) -> StartRun:
    """The command that starts the run, under the first id that neither a bundle nor the stream has."""
    for run_id in places.run_ids(now):
        if await bus.events(run_id):
            continue
        try:
            spec = create(prepared, run_id, now)
        except FileExistsError:
            continue
        return StartRun(run_id=run_id, request_id=request_id(), spec=spec)
    raise AssertionError("run ids do not end")


async def ask_and_follow(bus: Bus, command: OperatorCommand, console: Console) -> tuple[PageFold, bool]:
    """Publish a command that starts a run or goes on with one, and follow the run.

    Returns:
        What is known of the run, and whether the person left before the end.

    Raises:
        UsageError: The gatekeeper refused, or the run to resume is not known.
    """
    records = await bus.events(command.run_id)
    if isinstance(command, ResumeRun) and not records:
        raise UsageError(f"--resume {command.run_id}: the server does not know this run")
    fold = fold_all(command.run_id, records)
    if isinstance(command, StartRun):
        tell(console, f"run {command.run_id}, bundle {command.spec.bundle}")
    bundle = Path(command.spec.bundle) if isinstance(command, StartRun) else None
    after = records[-1].sequence if records else 0

    async def stop() -> None:
        await bus.publish(StopRun(run_id=command.run_id, request_id=request_id()))

    with (
        interrupts() as interrupted,
        Screen(console, Sight(fold, bundle, live=True), hint=with_page("Ctrl-C: stop or detach")) as screen,
    ):
        await bus.publish(command)
        left = await follow(
            from_bus(bus, command.run_id, after=after),
            fold,
            screen,
            interrupted=interrupted,
            ask=lambda: ask_at_terminal(interrupted),
            stop=stop,
            waiting_for=command.request_id,
        )
    if not left and not await recorded_in_bundle(bus, fold):
        tell(
            console,
            "The reporter has not written the run's last events to "
            f"{fold.page(time.time()).bundle}/{places.EVENTS_FILE} yet; "
            "it goes on with that when the stack is up",
        )
    return fold, left


async def recorded_in_bundle(bus: Bus, fold: PageFold) -> bool:
    """Wait until the bundle's event file tells the run to its end, so that the bundle is enough.

    Returns:
        Whether it does; true as well where the services keep the bundle elsewhere.
    """
    last = await bus.last_event(fold.run_id, RunFinished.name)
    if last is None or fold.spec is None:
        return True
    event_file = Path(fold.spec.bundle) / places.EVENTS_FILE
    if not event_file.parent.is_dir():
        with contextlib.suppress(OSError):  # the empty directory that took the run's id here
            event_file.parents[1].rmdir()
        return True
    for _ in range(int(EVENT_FILE_SEC / EVENT_FILE_LOOK_SEC)):
        written = last_event(event_file)
        if written is not None and written.sequence >= last.sequence:
            return True
        await asyncio.sleep(EVENT_FILE_LOOK_SEC)
    return False
