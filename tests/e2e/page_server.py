"""The live page's real server on a memory bus that holds the events of a bundle, for tests and to look at.

`python -m tests.e2e.page_server BUNDLE [PORT]` serves one until Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.reporter.page.server import PageServer, open_page
from shared.bundle import Bundle
from shared.bus.journal import read_journal
from shared.bus.memory import Broker, MemoryBus
from shared.bus.protocol import Recorded
from shared.bus.wire import encode
from shared.service import Runs
from shared.settings import Settings
from shared.web.place import with_token

TOKEN = "open sesame"


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    """Ends with a slash."""
    bus: MemoryBus
    """Publish on it, and the page shows it."""
    server: PageServer
    token: str

    @property
    def address(self) -> str:
        """What a person opens."""
        return with_token(self.url, self.token)


class Placed(Runs):
    """Finds bundles where the test has put them."""

    def __init__(self, bus: MemoryBus, settings: Settings, bundles: dict[str, Path]) -> None:
        super().__init__(bus, settings)
        self._bundles = bundles

    async def place(self, run_id: str) -> Bundle:
        """See `Runs`."""
        bundle = await super().place(run_id)
        return Bundle(self._bundles.get(run_id, bundle.root), bundle.run_name)


def put(broker: Broker, record: Recorded) -> None:
    """Put an event into the log as of its own time."""
    broker.put(encode(record.message, source=record.source, time=record.time))


@contextlib.asynccontextmanager
async def serving(
    bundles: Sequence[Path] = (),
    *,
    port: int = 0,
    records: Sequence[Recorded] | None = None,
    token: str = TOKEN,
) -> AsyncIterator[Served]:
    """Serve bundles.

    Args:
        bundles: Their directories, each with its `Logs/events.jsonl`.
        port: 0 takes a free one.
        records: Events instead of those of the bundles: a run that has not come that far.
        token: Asked of whoever wants anything.
    """
    broker, places = Broker(), dict[str, Path]()
    for root in bundles:
        told = read_journal(root / "Logs" / "events.jsonl")
        places[told[0].message.run_id] = root
        for record in told if records is None else ():
            put(broker, record)
    for record in records or ():
        put(broker, record)
    bus = MemoryBus("reporter", broker=broker)
    settings = Settings(page_port=port, page_token=token)
    page = open_page(bus, Placed(bus, settings, places), settings)
    assert page is not None
    task = asyncio.create_task(page.run())
    try:
        while not page.server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        yield Served(page.url, bus, page, token)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _forever(root: Path, port: int) -> None:
    async with serving([root], port=port) as served:
        print(served.address, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_forever(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
