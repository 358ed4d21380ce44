"""What comes in of a run that is watched: its events, everybody's telemetry, what waits for the services."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from shared.bus.journal import read_journal
from shared.bus.protocol import Backlog, Bus, Recorded
from shared.errors import BusError

LOOK_SEC = 5.0
"""Between two looks at what waits."""
FILE_SEC = 1.0
"""Between two looks at a bundle's event file."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A look at the services' backlogs; none where the bus does not answer."""

    found: list[Backlog] | None


News = Recorded | Waiting


async def from_bus(bus: Bus, run_id: str, *, after: int) -> AsyncGenerator[News, None]:
    """A run's events above a sequence and all telemetry as they come, and a look at what waits; for ever.

    Telemetry is that of all runs: a service that works on none still says that it lives.

    Raises:
        BusError: The connection is closed for good.
    """
    incoming: asyncio.Queue[News | BusError] = asyncio.Queue()

    async def pump(records: AsyncGenerator[Recorded, None]) -> None:
        try:
            async with contextlib.aclosing(records):
                async for recorded in records:
                    incoming.put_nowait(recorded)
        except BusError as error:
            incoming.put_nowait(error)

    async def look() -> None:
        while True:
            try:
                found: list[Backlog] | None = await bus.backlog()
            except BusError:
                found = None
            incoming.put_nowait(Waiting(found))
            await asyncio.sleep(LOOK_SEC)

    tasks = [
        asyncio.create_task(work)
        for work in (
            pump(bus.follow(("event",), run_id, after=after)),
            pump(bus.follow(("telemetry",))),
            look(),
        )
    ]
    try:
        while True:
            item = await incoming.get()
            if isinstance(item, BusError):
                raise item
            yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def from_file(path: Path, *, after: int) -> AsyncGenerator[News, None]:
    """The events that are added to a bundle's file above a sequence; for ever.

    Raises:
        BundleError: The file went away, or a line is no event.
    """
    size = -1
    while True:
        now = path.stat().st_size if path.exists() else 0
        if now != size:
            size = now
            for recorded in read_journal(path):
                if recorded.sequence > after:
                    after = recorded.sequence
                    yield recorded
        await asyncio.sleep(FILE_SEC)
