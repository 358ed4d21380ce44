"""Reading a stream's past and following it, without taking anything from anyone.

A reader is an unacknowledged consumer of its own under a random name, forgotten by the server soon after it
is left. It waits in pulls of a second: a pull that a restart swallowed costs that second and no more.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, cast

import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from shared.bus import streams
from shared.bus.connection import REQUEST_SEC, Connection, faithful, unsubscribe

PULL_SEC = 1.0
"""Wait of one pull for a message."""
BATCH = 256
"""Messages per pull while reading the past."""
IDLE_SEC = 30.0
"""The server forgets a follower that has not pulled for so long."""
READ_SEC = 5.0
"""The same of who reads the past, without a pause: each reader costs the server some 100 KB until then."""


async def read_all(
    connection: Connection, stream: str, subject: str, after: int, most: int | None = None
) -> list[Any]:
    """The messages of a subject with a sequence above `after`, so far; of more than `most`, the first."""
    subscription, pending = await _reader(connection, stream, subject, after, READ_SEC)
    pending = pending if most is None else min(pending, most)
    try:
        found: list[Any] = []
        while len(found) < pending:
            count = min(BATCH, pending - len(found))
            found += await faithful(subscription.fetch(count, timeout=REQUEST_SEC))
        return found
    finally:
        await unsubscribe(subscription)


async def follow_events(connection: Connection, subject: str, after: int) -> AsyncGenerator[Any, None]:
    """The events of a subject with a sequence above `after`, and those to come; for ever, each once.

    Raises:
        BusError: As of `Connection.recover`.
    """
    while True:
        subscription = None
        try:
            number, delivered = connection.number, 0
            subscription, pending = await _reader(connection, streams.EVENTS, subject, after, IDLE_SEC)
            while number == connection.number:
                for message in await pull(subscription, min(max(pending, 1), BATCH)):
                    delivered += 1
                    meta = _in_order(message.metadata, delivered)
                    after, pending = meta.sequence.stream, meta.num_pending
                    yield message
        except (nats.errors.Error, TimeoutError) as error:
            await connection.recover(f"follower of {subject}", error, creation(streams.EVENTS))
        finally:
            await unsubscribe(subscription)


async def pull(subscription: Any, count: int) -> list[Any]:
    """Up to `count` messages, at once when there is one; none after `PULL_SEC`."""
    try:
        return cast("list[Any]", await faithful(subscription.fetch(count, timeout=PULL_SEC)))
    except TimeoutError:
        return []


def creation(stream: str) -> str:
    """The beginning of the subjects on which consumers of a stream are asked for."""
    return f"$JS.API.CONSUMER.CREATE.{stream}"


async def _reader(
    connection: Connection, stream: str, subject: str, after: int, idle_sec: float
) -> tuple[Any, int]:
    """A reader from a sequence on, and how many messages it has before it."""
    config = ConsumerConfig(
        name=f"reader-{connection.nc.new_inbox().rpartition('.')[2]}",
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=after + 1,
        ack_policy=AckPolicy.NONE,
        filter_subject=subject,
        mem_storage=True,
        inactive_threshold=idle_sec,
        num_replicas=1,
    )
    info = await faithful(connection.js.add_consumer(stream, config))
    return await connection.js.pull_subscribe_bind(consumer=info.name, stream=stream), info.num_pending


def _in_order(meta: Any, delivered: int) -> Any:
    """The metadata of a reader's message, if it is the one that follows those delivered before."""
    if meta.sequence.consumer != delivered:
        raise nats.errors.Error("a message was lost on the way")
    return meta
