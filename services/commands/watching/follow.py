"""Following a run to its end: the whole view on a terminal, plain lines elsewhere, and what Ctrl-C means."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Literal, Protocol
from uuid import uuid4

from rich.console import Console

from services.commands.terminal.output import tell
from services.commands.terminal.painter import Painter, signs
from services.commands.terminal.text import clean
from services.commands.terminal.view import view
from services.commands.watching import render
from services.commands.watching.news import News, Waiting
from services.commands.watching.sight import Sight
from services.reporter.core.page.fold import PageFold
from shared.bus.protocol import Recorded
from shared.errors import UsageError
from shared.events import CommandRejected, RunFinished, TrainProgress
from shared.settings import Settings
from shared.web import place

PROGRESS_EVERY_SEC = 10.0
"""Between two progress lines where there is no terminal."""
REDRAW_SEC = 0.5
"""Between two drawings on a terminal."""
Answer = Literal["stop", "detach", "go on"]


class Display(Protocol):
    """Where a run is shown."""

    @property
    def every(self) -> float | None:
        """Seconds after which it wants to be shown again, though nothing came; none never."""
        ...

    def set_aside(self) -> contextlib.AbstractContextManager[None]:
        """Free the terminal for a question."""
        ...

    def show(self, recorded: Recorded | None) -> None:
        """Show the run, not more often than it makes sense; `recorded` is what just came."""
        ...


class Screen:
    """Shows a run as it goes: the view on a terminal, a line per event elsewhere.

    Args:
        console: Where it is shown.
        sight: What is seen of the run.
        hint: Last line of the view.
    """

    def __init__(self, console: Console, sight: Sight, *, hint: str = "") -> None:
        self._console, self._sight, self._hint = console, sight, hint
        self._painter: Painter | None = None
        self._drawn = self._last_progress = -REDRAW_SEC - PROGRESS_EVERY_SEC

    def __enter__(self) -> Screen:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def every(self) -> float | None:
        """See `Display`."""
        return REDRAW_SEC if self._painter is not None else None

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """See `Display`."""
        self._stop()
        yield
        self._start()

    def show(self, recorded: Recorded | None) -> None:
        """See `Display`."""
        if self._painter is not None:
            if time.monotonic() - self._drawn >= REDRAW_SEC:
                self._draw(self._painter)
                self._drawn = time.monotonic()
        elif recorded is not None and isinstance(recorded.message, TrainProgress):
            theirs = recorded.message.run_id != self._sight.fold.run_id
            if not theirs and time.monotonic() - self._last_progress >= PROGRESS_EVERY_SEC:
                self._last_progress = time.monotonic()
                self._print(render.progress_line(recorded.message))
        elif recorded is not None and (text := render.line(recorded)):
            self._print(text)

    def _draw(self, painter: Painter) -> None:
        page = self._sight.page()
        width, height = self._console.size
        painter.draw(
            view(
                page,
                self._sight.newest_loss(page),
                width=width,
                height=height,
                signs=signs(self._console),
                hint=self._hint,
            )
        )

    def _start(self) -> None:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._painter = Painter(self._console)
            self._painter.__enter__()
            self._drawn = -REDRAW_SEC

    def _stop(self) -> None:
        if self._painter is not None:
            self._painter.__exit__(None, None, None)
            self._painter = None

    def _print(self, text: str) -> None:
        tell(self._console, clean(text, signs(self._console)))


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
    news: AsyncGenerator[News, None],
    fold: PageFold,
    screen: Display,
    *,
    interrupted: asyncio.Event,
    ask: Callable[[], Awaitable[Answer]],
    stop: Callable[[], Awaitable[None]] | None = None,
    waiting_for: str | None = None,
) -> bool:
    """Follow a run until it ends or the person leaves.

    Args:
        news: What comes in, after what the fold has.
        fold: What is known of the run; takes what comes.
        screen: Where it is shown.
        interrupted: Set by Ctrl-C.
        ask: Asks what Ctrl-C means.
        stop: Asks the gatekeeper to stop the run; needed where `ask` may answer so.
        waiting_for: Request id of the command that starts it, to notice its refusal.

    Returns:
        Whether it was left before the run's end.

    Raises:
        UsageError: The gatekeeper refused the command.
        BusError: The connection is closed for good.
    """
    incoming = asyncio.ensure_future(anext(news))
    interrupt = asyncio.ensure_future(interrupted.wait())
    screen.show(None)
    try:
        while True:
            done, _ = await asyncio.wait(
                {incoming, interrupt}, timeout=screen.every, return_when=asyncio.FIRST_COMPLETED
            )
            if interrupt.done():
                interrupted.clear()
                with screen.set_aside():
                    answer = await ask()
                if answer == "detach":
                    return True
                if answer == "stop" and stop is not None:
                    await stop()
                interrupt = asyncio.ensure_future(interrupted.wait())
            if incoming.done():
                item = incoming.result()
                incoming = asyncio.ensure_future(anext(news))
                if isinstance(item, Waiting):
                    fold.backlog(item.found)
                else:
                    fold.take(item)
                    screen.show(item)
                    match item.message:
                        case CommandRejected(request_id=refused, reason=reason) if refused == waiting_for:
                            raise UsageError(f"the gatekeeper refused: {reason}")
                        case RunFinished() if fold.ended:
                            return False
            elif not done:
                screen.show(None)
    finally:
        for task in (incoming, interrupt):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await news.aclose()


def with_page(hint: str) -> str:
    """A hint with the live page's address, if one is served: the view hides what was printed before."""
    page = place.address(Settings())
    return hint if page is None else f"{hint}   live page: {page}"


async def leave() -> Answer:
    """What Ctrl-C means to somebody who only watches."""
    return "detach"


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
