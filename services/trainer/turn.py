"""One trainer of a node rank at a time on a NATS server, wherever their state directories are.

Whoever begins appends `trainer_started` to the log, and works for as long as no other follows. Another one
appends its own when it has heard no heartbeat for a while; of two that do so at once, the log takes one. Who
reads that another has taken its place ends. While the server is away nobody takes it, and training goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

import structlog

from services.trainer.alone import place_of
from shared.bus.protocol import Bus
from shared.errors import SequenceConflict, WorldloopError
from shared.events import NO_RUN, Heartbeat, Message, TrainerStarted
from shared.settings import Settings

BEATS = 2
"""Heartbeats that have to be missing."""
LOOK_SEC = 0.1
LONGEST_LOOK_SEC = 0.5
"""More time between two looks is none in which this process could have heard anything."""
UNREADABLE = 20
"""Looks at the log after which its last event is one that nobody can read, and not only late in a cluster."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Turn:
    """This process's place among the trainers of its node rank.

    Args:
        bus: Where the others are heard.
        settings: Of this service; `heartbeat_sec` is taken to be the others' as well.
    """

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._bus, self._settings = bus, settings
        self._place, self._host = place_of(settings), socket.gethostname()
        self._sequence = 0

    async def take(self) -> None:
        """Wait until no other trainer works, and take its place.

        One of this state directory is known to be gone (`alone`), and is not waited for; one whose state
        directory is a copy of it, on another host, is.
        """
        gone: TrainerStarted | None = None
        end, refused = 0, 0
        while True:
            past = await self._bus.events(NO_RUN)
            newest = next((peer for each in reversed(past) if (peer := self._peer(each.message))), None)
            if newest is not None and newest != gone and not self._is_before_us(newest):
                log.info("another trainer works; waiting for its end", host=newest.host, pid=newest.pid)
                await self._silent(newest)
                gone = newest
            after = max(past[-1].sequence if past else 0, end if refused > UNREADABLE else 0)
            try:
                self._sequence = await self._bus.append(self._started(after), after=after)
            except SequenceConflict as conflict:
                end, refused = conflict.last or 0, refused + 1 if conflict.last == end else 1
                await asyncio.sleep(LOOK_SEC)
                continue
            return

    async def keep(self) -> None:
        """Wait until another trainer has taken this one's place.

        Raises:
            WorldloopError: It has.
        """
        async with contextlib.aclosing(self._bus.follow(("event",), NO_RUN, after=self._sequence)) as events:
            async for record in events:
                if (other := self._peer(record.message)) is not None:
                    raise WorldloopError(
                        f"the trainer on {other.host} (pid {other.pid}) has taken over: it heard no "
                        "heartbeat of this one"
                    )

    def _started(self, after: int) -> TrainerStarted:
        return TrainerStarted(
            run_id=NO_RUN,
            node_rank=self._settings.node_rank,
            host=self._host,
            pid=os.getpid(),
            place=self._place,
            after=after,
        )

    def _is_before_us(self, other: TrainerStarted) -> bool:
        """Whether it worked in this state directory."""
        return (other.place, other.host) == (self._place, self._host)

    def _peer(self, event: Message) -> TrainerStarted | None:
        """The event, if it is of a trainer of this node rank."""
        if isinstance(event, TrainerStarted) and event.node_rank == self._settings.node_rank:
            return event
        return None

    async def _silent(self, other: TrainerStarted) -> None:
        """Wait until a trainer has been silent for long enough while the server was not."""
        silent_sec, heard, clock = 0.0, asyncio.Event(), asyncio.get_running_loop().time

        async def listen() -> None:
            async with contextlib.aclosing(
                self._bus.follow(("telemetry",), names=(Heartbeat.name,))
            ) as readings:
                async for record in readings:
                    beat = record.message
                    if isinstance(beat, Heartbeat) and _is_of(beat, other):
                        heard.set()

        listening, last = asyncio.create_task(listen()), clock()
        try:
            while silent_sec < BEATS * self._settings.heartbeat_sec:
                await asyncio.wait({listening}, timeout=LOOK_SEC)
                if listening.done():
                    listening.result()
                passed, last = min(clock() - last, LONGEST_LOOK_SEC), clock()
                silent_sec = silent_sec + passed if self._bus.connected and not heard.is_set() else 0.0
                heard.clear()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


def _is_of(beat: Heartbeat, other: TrainerStarted) -> bool:
    said = beat.service, beat.node_rank, beat.host, beat.pid
    return said == ("trainer", other.node_rank, other.host, other.pid)
