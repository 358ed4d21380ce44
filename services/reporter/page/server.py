"""Serves the page beside the reporter's own work, and says where."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import structlog
import uvicorn

from services.reporter.page.app import Site, create_app
from services.reporter.page.board import Board
from services.reporter.page.door import Door
from shared.bus.protocol import Bus
from shared.errors import ConfigurationError, UsageError
from shared.service import Runs
from shared.settings import Settings
from shared.web.access import Access
from shared.web.listen import address, listen, own_names
from shared.web.place import forget, last_port, record, token

PORTS = 20
"""Ports that are tried from the wanted one on."""
GOODBYE_SEC = 1

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """Leaves the signals to the service that it is part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class PageServer:
    """The listening server; `run` serves until cancelled."""

    board: Board
    server: uvicorn.Server
    listener: socket.socket
    url: str

    async def run(self) -> None:
        """Serve; for ever."""
        serving = asyncio.create_task(self.server.serve(sockets=[self.listener]))
        following = asyncio.create_task(self.board.task())
        try:
            await asyncio.wait((serving, following), return_when=asyncio.FIRST_COMPLETED)
            for task in (serving, following):
                if task.done():
                    task.result()  # raises what ended it
        finally:
            self.board.close()
            self.server.should_exit = True
            following.cancel()
            await asyncio.gather(serving, following, return_exceptions=True)
            self.listener.close()


def open_page(bus: Bus, runs: Runs, settings: Settings) -> PageServer | None:
    """Listen, and record the address in the state directory; none, with a reason in the log, if that fails.

    Whoever opens it must have the token, also on this machine: its other users can reach the port.
    """
    host = settings.page_host
    cure = "Name another with WORLDLOOP_PAGE_HOST or WORLDLOOP_PAGE_PORT"
    try:
        access = Access(token(settings))
        listener = listen(host, _ports(settings.page_port, last_port(settings)), cure=cure)
    except (ConfigurationError, UsageError) as error:
        forget(settings)
        log.error("there is no page", problem=str(error))  # noqa: TRY400 - the reports go on
        return None
    url = address(listener)
    board = Board(bus, runs.place)
    app = create_app(Site(board, bus, Door(own_names(host), access)))
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GOODBYE_SEC,
        lifespan="off",
        proxy_headers=False,  # else whoever is on this machine may call itself what it likes
    )
    try:
        record(settings, url)
    except OSError as error:
        log.warning("the page's address could not be recorded", problem=str(error))
    log.info("the page is served", url=url)
    return PageServer(board, _Server(config), listener, url)


def _ports(wanted: int, last: int | None) -> list[int]:
    """What to try: first the last one, unless another was asked for since: open pages find it again."""
    near = range(wanted, min(wanted + PORTS, 2**16)) if wanted else range(0)
    again = [last] if last is not None and (last in near or not wanted) else []
    return [*again, *near, 0]
