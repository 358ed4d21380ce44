"""What the services have before them, as the server's consumers tell."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import nats.errors
from nats.js.errors import NotFoundError

from shared.bus import streams
from shared.bus.connection import Connection, faithful
from shared.bus.protocol import Backlog
from shared.errors import BusError
from shared.events import SERVICES

LOOK_SEC = 3.0
"""How long a look at the consumers may take."""
CONSUMERS_PAGE = 256
"""Consumers the server lists at a time."""


async def backlogs(connection: Connection) -> list[Backlog]:
    """One per service that has consumers or dead letters.

    Raises:
        BusError: The server does not answer within `LOOK_SEC`, or this user may not look.
    """
    try:
        async with asyncio.timeout(LOOK_SEC):
            durable = [
                found
                for stream in (streams.EVENTS, streams.COMMANDS)
                for found in await faithful(_consumers(connection, stream))
            ]
            dead = await faithful(_dead_counts(connection))
    except (nats.errors.Error, TimeoutError) as error:
        connection.check_allowed("$JS.API.CONSUMER.LIST")
        raise BusError(f"the NATS server at {connection.url} does not answer: {error}") from error
    return _by_service(durable, dead)


async def _consumers(connection: Connection, stream: str) -> list[Any]:
    """What the server knows of a stream's consumers; none where there is no such stream."""
    found: list[Any] = []
    try:
        while True:
            page = await connection.js.consumers_info(stream, offset=len(found))
            found += page
            if len(page) < CONSUMERS_PAGE:
                return found
    except NotFoundError:
        return []


async def _dead_counts(connection: Connection) -> dict[str, int]:
    """Subject of dead letters -> how many there are."""
    try:
        info = await connection.js.stream_info(streams.DEAD, subjects_filter="worldloop.*.dead.>")
    except NotFoundError:
        return {}
    return dict(info.state.subjects or {})


def _by_service(consumers: list[Any], dead: dict[str, int]) -> list[Backlog]:
    """One per service, from its consumers (see `Consumer.durable`) and the subjects of its dead letters."""
    found: list[Backlog] = []
    for service in SERVICES:
        names = (f"{service}-commands", f"{service}-events")
        own = [each for each in consumers if (each.config.durable_name or "").startswith(names)]
        counts: Counter[str] = Counter()
        for subject, count in dead.items():
            _, run_id, _, of, *_ = subject.split(".")
            if of == service:
                counts[run_id] += count
        if own or counts:
            found.append(
                Backlog(
                    service,
                    waiting=sum(each.num_pending or 0 for each in own),
                    unsettled=sum(each.num_ack_pending or 0 for each in own),
                    redelivered=sum(each.num_redelivered or 0 for each in own),
                    dead=dict(counts),
                )
            )
    return found
