"""Following a run to its end: a live panel on a terminal, plain lines elsewhere, and what Ctrl-C means."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Literal
from uuid import uuid4

from rich.console import Console
from rich.live import Live

from services.commands import render
from services.commands.view import RunView, fold
from shared.bus.protocol import Bus, Recorded
from shared.errors import UsageError
from shared.events import StopRun, TrainProgress

PROGRESS_EVERY_SEC = 10.0
"""Between two progress lines where there is no terminal."""
Answer = Literal["stop", "detach", "go on"]


class Screen:
    """Shows a run as it goes: a live panel on a terminal, a line per event elsewhere."""

    def __init__(self, console: Console, *, hint: str = "") -> None:
        self._console, self._hint = console, hint
        self._live: Live | None = None
        self._last_progress = 0.0

    def __enter__(self) -> Screen:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """Free the terminal for a question."""
        if self._live is not None:
            self._live.stop()
        yield
        self._start()

    def show(self, view: RunView, recorded: Recorded | None) -> None:
        """Show the view; `recorded` is what just came, none for a view made of the past."""
        if self._live is not None:
            self._live.update(render.panel(view, hint=self._hint))
        elif recorded is not None and isinstance(recorded.message, TrainProgress):
            if time.monotonic() - self._last_progress >= PROGRESS_EVERY_SEC:
                self._last_progress = time.monotonic()
                self._print(render.progress_line(recorded.message))
        elif recorded is not None and (text := render.line(recorded)):
            self._print(text)

    def _start(self) -> None:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4)
            self._live.start()

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def interrupts() -> Iterator[asyncio.Event]:
    """Ctrl-C as an event to wait for, while the event loop runs."""
    interrupted = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupted.set)
    try:
        yield interrupted
    finally:
        loop.remove_signal_handler(signal.SIGINT)


async def follow(
    bus: Bus,
    view: RunView,
    screen: Screen,
    *,
    after: int,
    interrupted: asyncio.Event,
    ask: Callable[[], Awaitable[Answer]],
    waiting_for: str | None = None,
) -> tuple[RunView, bool]:
    """Follow a run until it ends or the person leaves.

    Args:
        bus: Where it is followed.
        view: What is known so far.
        screen: Where it is shown.
        after: Sequence of the last event in `view`.
        interrupted: Set by Ctrl-C.
        ask: Asks what Ctrl-C means.
        waiting_for: Request id of the command that starts it, to notice its refusal.

    Returns:
        The last view, and whether it was left before the run's end.

    Raises:
        UsageError: The gatekeeper refused the command.
    """
    records = bus.follow(("event", "telemetry"), view.run_id, after=after)
    incoming = asyncio.ensure_future(anext(records))
    interrupt = asyncio.ensure_future(interrupted.wait())
    try:
        while True:
            await asyncio.wait({incoming, interrupt}, return_when=asyncio.FIRST_COMPLETED)
            if interrupt.done():
                interrupted.clear()
                with screen.set_aside():
                    answer = await ask()
                if answer == "detach":
                    return view, True
                screen.show(view, None)
                if answer == "stop":
                    await bus.publish(StopRun(run_id=view.run_id, request_id=request_id()))
                interrupt = asyncio.ensure_future(interrupted.wait())
            if incoming.done():
                recorded = incoming.result()
                view = fold(view, recorded)
                screen.show(view, recorded)
                if waiting_for is not None and waiting_for in view.refused:
                    raise UsageError(f"the gatekeeper refused: {view.refused[waiting_for]}")
                if view.ended and recorded.message.name == "run_finished":
                    return view, False
                incoming = asyncio.ensure_future(anext(records))
    finally:
        for task in (incoming, interrupt):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await records.aclose()


async def ask_at_terminal(interrupted: asyncio.Event) -> Answer:
    """Ask what Ctrl-C means; a second Ctrl-C, or nobody to ask, detaches."""
    if not sys.stdin.isatty():
        return "detach"
    sys.stdout.write("\nCtrl-C: [s]top the run, [d]etach and leave it running, [Enter] go on watching? ")
    sys.stdout.flush()
    loop = asyncio.get_running_loop()
    answered: asyncio.Queue[str] = asyncio.Queue()
    loop.add_reader(sys.stdin, lambda: answered.put_nowait(sys.stdin.readline()))
    answer = asyncio.ensure_future(answered.get())
    again = asyncio.ensure_future(interrupted.wait())
    try:
        await asyncio.wait((answer, again), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            interrupted.clear()
            return "detach"
        word = answer.result().strip().lower()
    finally:
        loop.remove_reader(sys.stdin)
        answer.cancel()
        again.cancel()
    return "stop" if word.startswith("s") else "detach" if word.startswith("d") else "go on"


def request_id() -> str:
    """An id for an operator's command."""
    return uuid4().hex
