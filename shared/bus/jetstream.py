"""The bus over NATS JetStream.

Whatever goes out carries its id as `Nats-Msg-Id`, so sending again after a time-out is harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import nats.errors
import structlog
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from shared.bus import streams
from shared.bus.backlogs import backlogs
from shared.bus.connection import RETRY_SEC, Connection, faithful, unsubscribe
from shared.bus.deliveries import JetStreamDelivery, durable, letter, stored
from shared.bus.identity import Identity
from shared.bus.protocol import Backlog, Consumer, DeadLetter, Delivery, Recorded
from shared.bus.reading import creation, follow_events, pull, read_all
from shared.bus.wire import Envelope, dead, decode, encode, published, service_of
from shared.errors import BusError, MessageError, SequenceConflict
from shared.events import Event, Kind, Message, Telemetry

WRONG_LAST_SEQUENCE = 10071
"""The server's code for a failed expectation of the last sequence."""
PAGE = 1024
"""Messages of the past that are in memory at a time."""
BEHIND = 1024
"""Readings that wait for a follower who does not keep up; what comes then is lost to it."""
AT_ONCE = 100
"""Messages of the past that are decoded before others get their turn."""
LAST_SEQUENCE = re.compile(r"wrong last sequence: (\d+)")

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class JetStreamBus:
    """A `Bus` over one NATS connection; made by `connect`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        source: str = "cli",
        wait_sec: float | None = 5.0,
        key: Path | None = None,
        ca: Path | None = None,
        replicas: int | None = None,
    ) -> JetStreamBus:
        """Connect, and make or update the streams, or wait until the user who may has made them.

        Args:
            url: The server, or several of a cluster separated by commas.
            source: Service (or cli) that connects, for `ce-source`.
            wait_sec: How long to wait for a server that is not there (yet); none waits for ever.
            key: Key file of the user it connects as; none for a server that asks for no key.
            ca: Certificates that vouch for a server at `tls://`; none takes the system's.
            replicas: Servers of a cluster that keep each stream; none leaves streams as they are.

        Raises:
            BusError: No server, one that refuses us or that we do not trust, no JetStream, or streams that
                cannot be used; the text says what to do.
            ConfigurationError: The key or the certificates cannot be read.
        """
        connection = Connection(url, source, Identity.read(key, ca))
        try:
            async with asyncio.timeout(wait_sec):
                await connection.open()
                await _streams_ready(connection, replicas)
            if connection.identity.user in (None, *streams.MAKERS):  # the one in memory goes with the server
                connection.make_again = lambda: streams.ensure(connection.js, replicas)
        except TimeoutError:
            await connection.close()
            raise BusError(
                f"no NATS server with JetStream at {connection.url}{connection.problem}. Start the embedded "
                "stack with `worldloop up`, or check --nats-url / WORLDLOOP_NATS_URL"
            ) from None
        except BaseException:
            await connection.close()
            raise
        return cls(connection)

    async def publish(self, message: Message) -> None:
        """See `Bus`."""
        envelope = self._encode(message)
        if not isinstance(message, Telemetry):
            await self._store(envelope, {})
        elif self.connected:
            await self._connection.nc.publish(envelope.subject, envelope.data, headers=envelope.headers)

    async def append(self, event: Event, *, after: int) -> int:
        """See `Bus`."""
        expected = {
            "Nats-Expected-Last-Subject-Sequence": str(after),
            "Nats-Expected-Last-Subject-Sequence-Subject": f"worldloop.{event.run_id}.event.*",
        }
        envelope = self._encode(event)
        try:
            return await self._store(envelope, expected)
        except SequenceConflict:
            # An attempt whose answer was lost may have been stored: then the conflict is with ourselves.
            last = await self._last(envelope.subject)
            if last is not None and dict(last.headers or {}).items() >= envelope.headers.items():
                return cast("int", last.seq)
            raise

    async def events(
        self, run_id: str | None = None, *, after: int = 0, name: str | None = None
    ) -> list[Recorded]:
        """See `Bus`."""
        return [record async for record in self.past(run_id, after=after, name=name)]

    async def past(
        self, run_id: str | None = None, *, after: int = 0, name: str | None = None
    ) -> AsyncGenerator[Recorded, None]:
        """See `Bus`."""
        subject = f"worldloop.{run_id or '*'}.event.{name or '*'}"
        while True:
            page = await self._all(streams.EVENTS, subject, after, PAGE)
            for number, message in enumerate(page, 1):
                after = message.metadata.sequence.stream
                record = await self._record(message)
                if record is not None:
                    yield record
                if number % AT_ONCE == 0:  # a long past holds up nobody else in this process
                    await asyncio.sleep(0)
            if len(page) < PAGE:
                return

    async def last_event(self, run_id: str, name: str) -> Recorded | None:
        """See `Bus`."""
        raw = await self._last(f"worldloop.{run_id}.event.{name}")
        if raw is None:
            return None
        try:
            message = decode(raw.subject, raw.data)
        except MessageError as error:
            log.warning("a message cannot be read", subject=raw.subject, problem=str(error))
            return None
        time, source = published(raw.headers, raw.time or datetime.now(UTC))
        return Recorded(raw.seq, time, source, message)

    async def follow(
        self,
        kinds: tuple[Kind, ...] = ("event",),
        run_id: str | None = None,
        *,
        after: int = 0,
        names: tuple[str, ...] = (),
    ) -> AsyncGenerator[Recorded, None]:
        """See `Bus`."""
        events = self._follow_events(run_id, after)
        if kinds == ("event",):
            async with contextlib.aclosing(events):
                async for record in events:
                    yield record
            return
        merged: asyncio.Queue[Recorded | Exception] = asyncio.Queue(BEHIND)

        async def live(message: Any) -> None:
            record = await self._record(message)
            if record is not None:
                await merged.put(record)

        async def past_and_live() -> None:
            try:
                async with contextlib.aclosing(events):
                    async for record in events:
                        await merged.put(record)
            except BusError as error:
                await merged.put(error)

        subscriptions = [
            await self._connection.nc.subscribe(
                f"worldloop.{run_id or '*'}.{kind}.{name}", cb=live, pending_msgs_limit=BEHIND
            )
            for kind in kinds
            if kind != "event"
            for name in names or (">",)
        ]
        pump = asyncio.create_task(past_and_live()) if "event" in kinds else None
        try:
            while True:
                item = await merged.get()
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            if pump is not None:
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)
            for subscription in subscriptions:
                await unsubscribe(subscription)

    async def subscribe(self, consumer: Consumer) -> AsyncGenerator[Delivery, None]:
        """See `Bus`."""
        stream = streams.COMMANDS if consumer.kind == "command" else streams.EVENTS
        config, js = durable(consumer), self._connection.js
        while True:
            subscription = None
            try:
                await faithful(js.add_consumer(stream, config))
                subscription = await js.pull_subscribe_bind(consumer=config.durable_name, stream=stream)
                while True:
                    for message in await pull(subscription, 1):
                        yield JetStreamDelivery.of(message, self._connection)
            except (nats.errors.Error, TimeoutError) as error:
                asked = f"{creation(stream)}.{config.durable_name}"
                await self._connection.recover(f"consumer {config.durable_name}", error, asked)
            finally:
                await unsubscribe(subscription)

    async def dead_letter(self, letter: DeadLetter) -> None:
        """See `Bus`."""
        envelope, ident = stored(letter, self._connection.nc.max_payload)
        await self._store(envelope, {"Nats-Msg-Id": ident})

    async def dead_letters(self, run_id: str | None = None) -> list[DeadLetter]:
        """See `Bus`."""
        found = await self._all(streams.DEAD, f"worldloop.{run_id or '*'}.dead.>", 0)
        return [letter(message) for message in found]

    async def backlog(self) -> list[Backlog]:
        """See `Bus`."""
        return await backlogs(self._connection)

    @property
    def connected(self) -> bool:
        """See `Bus`."""
        return bool(self._connection.nc.is_connected)

    async def close(self) -> None:
        """See `Bus`."""
        await self._connection.close()

    def _encode(self, message: Message) -> Envelope:
        return encode(message, source=f"/worldloop/{self._connection.source}", time=datetime.now(UTC))

    async def _store(self, envelope: Envelope, extra: dict[str, str]) -> int:
        headers = {"Nats-Msg-Id": envelope.headers.get("ce-id", "")} | envelope.headers | extra
        js, subject = self._connection.js, envelope.subject
        try:
            ack = await self._connection.patiently(
                lambda: js.publish(subject, envelope.data, headers=headers), subject
            )
        except APIError as error:
            if error.err_code == WRONG_LAST_SEQUENCE:
                last = LAST_SEQUENCE.search(error.description or "")
                raise SequenceConflict(
                    f"{subject}: {error.description}", last=int(last[1]) if last else None
                ) from None
            raise BusError(f"{subject}: NATS refuses the message: {error.description}") from error
        return cast("int", ack.seq)

    async def _last(self, subject: str) -> Any:
        """The stored event that is the newest on a subject; none if there is none."""
        js = self._connection.js
        try:
            return await self._connection.patiently(
                lambda: js.get_last_msg(streams.EVENTS, subject), f"$JS.API.STREAM.MSG.GET.{streams.EVENTS}"
            )
        except NotFoundError:
            return None

    async def _all(self, stream: str, subject: str, after: int, most: int | None = None) -> list[Any]:
        return await self._connection.patiently(
            lambda: read_all(self._connection, stream, subject, after, most), creation(stream)
        )

    async def _follow_events(self, run_id: str | None, after: int) -> AsyncGenerator[Recorded, None]:
        messages = follow_events(self._connection, f"worldloop.{run_id or '*'}.event.*", after)
        async with contextlib.aclosing(messages):
            async for message in messages:
                record = await self._record(message)
                if record is not None:
                    yield record

    async def _record(self, message: Any) -> Recorded | None:
        """The message with its place in the log; what cannot be read is reported, and none."""
        meta = message.metadata if message.reply.startswith("$JS.ACK.") else None
        headers = dict(message.headers or {})
        try:
            decoded = decode(message.subject, message.data)
        except MessageError as error:
            log.warning("a message cannot be read", subject=message.subject, problem=str(error))
            service = service_of(self._connection.source)
            if meta is not None and service is not None:
                await self.dead_letter(
                    dead(Envelope(message.subject, message.data, headers), service, str(error))
                )
            return None
        time, source = published(headers, meta.timestamp if meta else datetime.now(UTC))
        return Recorded(
            meta.sequence.stream if meta else 0, time, source, decoded, meta.num_pending if meta else 0
        )


async def _streams_ready(connection: Connection, replicas: int | None) -> None:
    """Make the streams or bring them up to date; who may not waits until they are there.

    Raises:
        BusError: They cannot be used as they are.
    """
    makes = connection.identity.user in (None, *streams.MAKERS)
    while True:
        try:
            if makes:
                await streams.ensure(connection.js, replicas)
            else:
                await streams.look(connection.js)
        except NotFoundError:
            problem = f" (its streams are not there yet: {' or '.join(streams.MAKERS)} makes them)"
        except (ServiceUnavailableError, nats.errors.TimeoutError) as error:
            connection.check_allowed("$JS.API.STREAM")
            problem = f" ({error}: JetStream is off or not ready; start nats-server with -js)"
        except APIError as error:
            raise BusError(
                f"the streams at {connection.url} cannot be used: {error.description}. Another program or "
                "version made them differently: use another server, or move those streams away"
            ) from error
        else:
            return
        if problem != connection.problem:
            connection.problem = problem
            log.info("waiting for the NATS server", problem=problem.strip(" ()"))
        await asyncio.sleep(RETRY_SEC)
