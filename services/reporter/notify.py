"""Telling people: each service of the notification file reads the events with a place of its own in the log.

So a slow or dead service delays neither reports nor the other services, and what one has been told is not
told again after a restart. A message counts as told once the service has taken it; until then it comes again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from services.reporter import notify_file
from services.reporter.core.notices import WORTH_TELLING, Notice, Place, Told, notice, text, wait_sec
from services.reporter.notify_services import Recipient, picture_of, recipients
from shared.bundle import Bundle
from shared.bus.protocol import Bus, Consumer, Delivery
from shared.bus.wire import published
from shared.errors import BundleError, BusError, ConfigurationError, MessageError, Retry
from shared.service import Runs

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FORGET_SEC = 7 * 86400.0
"""A service that was taken out of the file loses its place in the log after so long."""
FINISH_SEC = 5.0
"""How long an end of the reporter, or a change of the file, waits for the answer to a message on its way."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast is told."""

    old_sec: float = 3600.0
    """Events older than this are not told, and no longer tried."""
    alerts_sec: float = 60.0
    """Alerts within this time after a message are gathered into the next one."""
    retry_sec: tuple[float, ...] = (5.0, 20.0, 60.0, 300.0, 900.0)
    """Waits after failures; the last one repeats."""
    ack_wait_sec: float = 30.0
    """Silence after which the server takes this process for dead, and gives its messages to the next."""
    look_sec: float = 2.0
    """Between two looks at whether the file has changed."""


@dataclass(slots=True)
class Held:
    """A notice that waits to be sent, with the message it stands for."""

    notice: Notice
    time: datetime
    """When the event was published."""
    run_id: str
    picture: Path | None
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Teller:
    """Tells what the notification file says, and goes by the file as it is now."""

    bus: Bus
    runs: Runs
    file: Path
    page: Callable[[], str | None] = lambda: None
    """Address of the live page, if there is one."""
    pace: Pace = field(default_factory=Pace)

    async def watch(self) -> None:
        """Tell, for ever; a file that is changed, made or removed counts from then on."""
        while True:
            seen = _stamp(self.file)
            telling = [asyncio.create_task(line) for line in await self._lines()]
            changing = asyncio.create_task(self._changed(seen))
            try:
                done, _ = await asyncio.wait((*telling, changing), return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a line ends with an error of the bus only: the supervisor starts anew
            finally:
                for task in (*telling, changing):
                    task.cancel()
                await asyncio.gather(*telling, changing, return_exceptions=True)

    async def _lines(self) -> list[Coroutine[Any, Any, None]]:
        """One line of work per service; none, with a line in the log, for a file that cannot be used."""
        try:
            found = notify_file.read(self.file)
            # Apprise imports all it knows, which takes seconds
            told = await asyncio.to_thread(recipients, found, self.file) if found is not None else []
        except ConfigurationError as error:
            log.error("nobody is told of anything", problem=str(error))  # noqa: TRY400 - a line for people
            return []
        if found is None:
            return []
        if (problem := notify_file.warning(self.file)) is not None:
            log.warning("the notification file is open to others", problem=problem)
        log.info("telling", services=[each.name for each in told], tell=list(found.tell))
        return [Line(self, each, found.tell).run() for each in told]

    async def _changed(self, seen: tuple[int, ...] | None) -> None:
        while _stamp(self.file) == seen:  # noqa: ASYNC110 - a file, so there is nothing to wait for
            await asyncio.sleep(self.pace.look_sec)


class Line:
    """What is told to one service, in order: gathered, sent, and settled once it was taken."""

    def __init__(self, teller: Teller, recipient: Recipient, tell: Sequence[Told]) -> None:
        self._teller, self._pace, self._to, self._tell = teller, teller.pace, recipient, tell
        self._held: list[Held] = []
        self._last_sent: float | None = None
        self._failures, self._retry_at = 0, 0.0

    async def run(self) -> None:
        """Tell, for ever.

        Raises:
            BusError: The bus stays away.
        """
        consumer = Consumer(
            "reporter",
            "event",
            WORTH_TELLING,
            ack_wait_sec=self._pace.ack_wait_sec,
            max_deliver=1000,
            purpose=f"notify-{self._to.name}",
            only_new=True,
            forget_after_sec=FORGET_SEC,
        )
        keeping = asyncio.create_task(self._keep())
        async with contextlib.aclosing(self._teller.bus.subscribe(consumer)) as deliveries:
            incoming = asyncio.ensure_future(anext(deliveries))
            try:
                while True:
                    await asyncio.wait(
                        (incoming, keeping), timeout=self._due_sec(), return_when=asyncio.FIRST_COMPLETED
                    )
                    if keeping.done():
                        keeping.result()
                    if incoming.done():
                        await self._take(incoming.result())
                        incoming = asyncio.ensure_future(anext(deliveries))
                    elif self._due_sec() == 0.0:
                        await self._send_whole()
            finally:
                for task in (incoming, keeping):
                    task.cancel()
                await asyncio.gather(incoming, keeping, return_exceptions=True)
                with contextlib.suppress(BusError):  # without a connection they come again after the ack wait
                    for each in self._held:
                        await each.delivery.nak()

    def _due_sec(self) -> float | None:
        """Seconds until what is held is to be sent; none for nothing."""
        if not self._held:
            return None
        now = asyncio.get_running_loop().time()
        since = now - self._last_sent if self._last_sent is not None else None
        gathering = wait_sec([held.notice for held in self._held], since, self._pace.alerts_sec)
        return max(gathering, self._retry_at - now, 0.0)

    async def _take(self, delivery: Delivery) -> None:
        """Hold what an event is worth telling; settle the others."""
        time, _ = published(delivery.headers, datetime.now(UTC))
        try:
            message = delivery.message()
        except MessageError:  # the reporter's other consumer makes it a dead letter
            await delivery.ack()
            return
        if not self._old(time):
            records = await self._teller.bus.events(message.run_id)
            try:
                bundle = await self._teller.runs.bundle(message.run_id)
            except Retry:
                bundle = None
            place = Place(str(bundle.root) if bundle is not None else None, self._teller.page())
            found = notice(message, records, place)
            if found is not None and found.about in self._tell:
                picture = _inside(bundle, found.picture)
                self._held.append(Held(found, time, message.run_id, picture, delivery))
                return
        await delivery.ack()

    async def _send_whole(self) -> None:
        """Send, and when this line ends meanwhile wait a little for the answer: it would be told twice."""
        sending = asyncio.ensure_future(self._send())
        try:
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            await asyncio.wait([sending], timeout=FINISH_SEC)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            raise

    async def _send(self) -> None:
        """Send what is held as one message; keep it for later if the service does not take it."""
        held = list(self._held)
        pictures = [found for each in held if (found := picture_of(each.picture)) is not None]
        picture = pictures[-1] if pictures and not self._failures else None  # it may be what was refused
        problem = await self._to.send(text([each.notice for each in held]), picture)
        now = asyncio.get_running_loop().time()
        if problem is None:
            self._failures, self._retry_at, self._last_sent = 0, 0.0, now
            log.info("told", service=self._to.name, notices=len(held))
            await self._settle(held)
            return
        wait = self._pace.retry_sec[min(self._failures, len(self._pace.retry_sec) - 1)]
        self._failures, self._retry_at = self._failures + 1, now + wait
        log.warning("a service was not told", service=self._to.name, problem=problem, again_in_sec=wait)
        late = [each for each in held if self._old(each.time)]
        for each in late:
            log.error(
                "given up telling a service",
                service=self._to.name,
                run_id=each.run_id,
                title=each.notice.title,
            )
        await self._settle(late)

    async def _settle(self, told: Sequence[Held]) -> None:
        for each in told:
            await each.delivery.ack()
            self._held.remove(each)

    async def _keep(self) -> None:
        """Tell the server that what is held is in work."""
        while True:
            await asyncio.sleep(self._pace.ack_wait_sec / 3)
            for each in list(self._held):
                await each.delivery.in_progress()

    def _old(self, time: datetime) -> bool:
        return datetime.now(UTC) - time > timedelta(seconds=self._pace.old_sec)


def _inside(bundle: Bundle | None, path: str | None) -> Path | None:
    """A picture of the bundle; none that a link leads to outside, for it is sent away."""
    if bundle is None or path is None:
        return None
    try:
        return bundle.resolve(path)
    except BundleError as error:
        log.warning("a picture is not sent along", problem=str(error))
        return None


def _stamp(file: Path) -> tuple[int, ...] | None:
    """What changes when the file does; none without it."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
