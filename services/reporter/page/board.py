"""The runs as the page's server knows them: all in a list, those that somebody looks at folded.

One reader follows the bus for all of them. A run is folded from its events when somebody asks for it, and
forgotten a while after the last has gone; a process that starts anew begins with nothing and needs no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from services.reporter.core.page.fold import PageFold, fold_all
from services.reporter.core.page.listing import TELLING, Listing
from services.reporter.core.page.model import Page, RunRow
from services.reporter.page.lines import Line, encode, plain
from shared.bundle import Bundle
from shared.bus.protocol import Bus, Recorded
from shared.errors import BusError, WorldloopError
from shared.events import Heartbeat, Service, Stage, TrainProgress
from shared.sheets import sheet_step

TICK_SEC = 0.25
"""How often what has happened is sent on: no browser gets more than four patches a second."""
LOOK_SEC = 2.0
"""Between two looks at the backlogs and at the sheets of the runs that somebody watches."""
QUIET_SEC = 8.0
"""After which a line on which nothing happened gets the time."""
FORGET_SEC = 600.0
"""After which a run that nobody asked for is forgotten."""
MAX_LINES = 100
"""Browsers at a time."""
PROGRESS = ("stage", "attempt", "step", "loss", "learning_rate", "frames_per_sec")

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class View:
    """A run that somebody looks at."""

    fold: PageFold
    used: float
    """Monotonic time of the last question about it."""
    lines: set[Line] = field(default_factory=set)
    changed: bool = False
    sent: float = 0.0
    """Monotonic time of the last patch."""
    progress: TrainProgress | None = None
    """The newest that was not sent on."""
    document: bytes | None = None
    """The event with the whole page, until something changes: a large one is made once for all who come."""

    def take(self, recorded: Recorded) -> None:
        """Fold a message in."""
        self.fold.take(recorded)
        self.touch()

    def touch(self) -> None:
        """Something changed."""
        self.changed, self.document = True, None

    def tell(self, event: bytes) -> None:
        """Send an event to all who watch."""
        for line in self.lines:
            line.put(event)


class Board:
    """All runs of a NATS server.

    Args:
        bus: Where they are.
        place: Where a run's bundle is.
        clock: Unix time.
    """

    def __init__(
        self,
        bus: Bus,
        place: Callable[[str], Awaitable[Bundle]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._bus, self._place, self._clock = bus, place, clock
        self._listing = Listing()
        self._listed = asyncio.Event()
        self._views: dict[str, View] = {}
        self._opening: dict[str, asyncio.Task[View | None]] = {}
        self._meanwhile: dict[str, list[Recorded]] = {}
        """What comes of a run while its past is folded."""
        self._beats: dict[Service, Recorded] = {}

    @property
    def lines(self) -> int:
        """Browsers that watch."""
        return sum(len(view.lines) for view in self._views.values())

    async def rows(self) -> list[RunRow]:
        """All runs, newest first."""
        await self._listed.wait()
        return self._listing.rows

    async def view(self, run_id: str) -> View | None:
        """A run, folded; none if there is no such run."""
        await self._listed.wait()
        view = self._views.get(run_id)
        if view is None:
            task = self._opening.get(run_id)
            if task is None:
                task = self._opening[run_id] = asyncio.create_task(self._open(run_id))
            view = await asyncio.shield(task)
        if view is not None:
            view.used = time.monotonic()
        return view

    def page(self, view: View) -> Page:
        """A run's whole page."""
        return view.fold.page(self._clock(), live=True)

    async def bundle(self, run_id: str) -> Bundle:
        """Where the run's files are."""
        return await self._place(run_id)

    def join(self, view: View) -> Line:
        """A line for one more browser, beginning with the whole page."""
        self._send(view)  # what others still wait for; this one gets it with the page
        line = Line(lambda: self._page(view))
        line.put(self._page(view) + self._runs() + encode("patch", plain({"now": self._clock()})))
        view.lines.add(line)
        return line

    def leave(self, view: View, line: Line) -> None:
        """A browser has gone."""
        view.lines.discard(line)
        view.used = time.monotonic()

    def close(self) -> None:
        """End all lines."""
        for view in self._views.values():
            for line in view.lines:
                line.close()

    async def follow(self) -> None:
        """Keep up with the bus; for ever."""
        last = 0
        async for recorded in self._telling():
            last = max(last, recorded.sequence)
        async for recorded in self._telling():  # once more: one may have come between two names
            if recorded.sequence <= last:
                self._listing.take(recorded)
        self._listed.set()
        async with contextlib.aclosing(self._bus.follow(("event", "telemetry"), after=last)) as records:
            async for recorded in records:
                self._take(recorded)

    async def tick(self) -> None:
        """Send on what has happened; for ever."""
        looked = time.monotonic()
        while True:
            await asyncio.sleep(TICK_SEC)
            now = time.monotonic()
            for view in self._views.values():
                if view.lines and (view.changed or now - view.sent > QUIET_SEC):
                    self._send(view)
            if self._listing.changed:
                self._listing.changed = False
                runs = self._runs()
                for view in self._views.values():
                    view.tell(runs)
            if now - looked >= LOOK_SEC:
                looked = now
                self._forget(now)
                await self._look_around([view for view in self._views.values() if view.lines])

    async def _telling(self) -> AsyncGenerator[Recorded, None]:
        """The events that the list is made of, in order, none kept: they hold whole specs."""
        readers = [self._bus.past(name=event.name) for event in TELLING]
        heads = [await anext(reader, None) for reader in readers]
        while True:
            ahead = [(head.sequence, place) for place, head in enumerate(heads) if head is not None]
            if not ahead:
                return
            _, place = min(ahead)
            head = heads[place]
            assert head is not None
            yield head
            heads[place] = await anext(readers[place], None)

    def _take(self, recorded: Recorded) -> None:
        message = recorded.message
        if isinstance(message, Heartbeat):
            self._beats[message.service] = recorded
            for view in self._views.values():
                view.take(recorded)
            return
        if isinstance(message, TELLING):
            self._listing.take(recorded)
        if message.run_id in self._meanwhile:
            self._meanwhile[message.run_id].append(recorded)
        found = self._views.get(message.run_id)
        if found is not None:
            found.take(recorded)
            if isinstance(message, TrainProgress):
                found.progress = message

    async def _open(self, run_id: str) -> View | None:
        self._meanwhile[run_id] = []
        try:
            records = await self._bus.events(run_id)
            if not records:
                return None
            fold = await asyncio.to_thread(fold_all, run_id, records)
            for recorded in (*self._beats.values(), *self._meanwhile[run_id]):
                fold.take(recorded)
            fold.forget_changes()
            view = self._views[run_id] = View(fold, time.monotonic())
            return view
        finally:
            del self._meanwhile[run_id], self._opening[run_id]

    def _send(self, view: View) -> None:
        now, progress = self._clock(), view.progress
        patch = view.fold.patch(now)
        view.changed, view.sent, view.progress = False, time.monotonic(), None
        if view.lines:
            view.tell(encode("patch", plain(patch)))
            if progress is not None:
                view.tell(encode("progress", progress.model_dump_json(include=set(PROGRESS))))

    def _page(self, view: View) -> bytes:
        if view.document is None:
            view.document = encode("page", self.page(view).model_dump_json())
        return view.document

    def _runs(self) -> bytes:
        return encode("runs", plain([row.model_dump(mode="json") for row in self._listing.rows]))

    def _forget(self, now: float) -> None:
        for run_id in [
            run_id for run_id, view in self._views.items() if not view.lines and now - view.used > FORGET_SEC
        ]:
            del self._views[run_id]

    async def _look_around(self, views: Sequence[View]) -> None:
        """Fill in what no event tells: backlogs, and sheets as they appear."""
        if not views:
            return
        try:
            backlogs = await self._bus.backlog()
        except BusError as error:
            log.debug("no backlogs", problem=str(error))
            backlogs = None
        for view in views:
            view.fold.backlog(backlogs)
            view.touch()
            stage = view.fold.run.stage
            if not view.fold.ended and stage is not None and stage != "inference":
                try:
                    bundle = await self._place(view.fold.run_id)
                    view.fold.sheets(stage, await asyncio.to_thread(_sheets, bundle, stage))
                    view.touch()
                except (OSError, WorldloopError) as error:
                    log.debug("no look at the sheets", run_id=view.fold.run_id, problem=str(error))

    async def task(self) -> None:
        """Follow and tick."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.follow())
            group.create_task(self.tick())


def _sheets(bundle: Bundle, stage: Stage) -> list[tuple[int, str]]:
    """Updates done and path of the sheets of a stage, in order."""
    found = ((sheet_step(path), path) for path in bundle.visualizations(stage).glob("*.png"))
    return sorted((step, bundle.relative(path)) for step, path in found if step is not None)
