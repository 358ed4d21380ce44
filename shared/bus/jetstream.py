"""The bus over NATS JetStream: retries, readers that survive the server's restarts, durable consumers.

Whatever goes out carries its id as `Nats-Msg-Id`, so sending again after a time-out is harmless. Whatever
waits does so in pulls of a second: a pull that a restart swallowed costs that second and no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar, cast
from urllib.parse import quote, unquote

import nats
import nats.errors
import structlog
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError, ServiceUnavailableError

from shared.bus import streams
from shared.bus.protocol import Backlog, Consumer, DeadLetter, Delivery, Recorded
from shared.bus.wire import Envelope, dead, decode, encode, published, service_of
from shared.errors import BusError, MessageError, SequenceConflict
from shared.events import SERVICES, Event, Kind, Message, Telemetry

PATIENCE_SEC = 60.0
"""How long a call goes on trying while the server is away."""
REQUEST_SEC = 1.0
"""Wait for one answer of the server."""
PULL_SEC = 1.0
"""Wait of one pull for a message."""
LOOK_SEC = 3.0
"""How long a look at the consumers may take."""
RETRY_SEC = 0.1
BATCH = 256
"""Messages per pull while reading the past."""
CONSUMERS_PAGE = 256
"""Consumers the server lists at a time."""
READER_IDLE_SEC = 30.0
"""The server forgets a reader that has not pulled for so long."""
WRONG_LAST_SEQUENCE = 10071
"""The server's code for a failed expectation of the last sequence."""
LAST_SEQUENCE = re.compile(r"wrong last sequence: (\d+)")

TRANSIENT = (
    TimeoutError,
    NoStreamResponseError,
    ServiceUnavailableError,
    nats.errors.ConnectionReconnectingError,
    nats.errors.NoRespondersError,
    nats.errors.OutboundBufferLimitError,
    nats.errors.StaleConnectionError,
)
"""What passes when the server is back."""

T = TypeVar("T")
log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class JetStreamBus:
    """A `Bus` over one NATS connection; made by `connect`."""

    def __init__(self, client: Any, url: str, source: str) -> None:
        self._nc, self._js, self._url, self._source = (
            client,
            client.jetstream(timeout=REQUEST_SEC),
            url,
            source,
        )
        self._connection = 0
        self._last_problem = ""
        self._closing = False

    @classmethod
    async def connect(cls, url: str, *, source: str = "cli", wait_sec: float | None = 5.0) -> JetStreamBus:
        """Connect, and make or update the streams.

        Args:
            url: The server, or several of a cluster separated by commas.
            source: Service (or cli) that connects, for `ce-source`.
            wait_sec: How long to wait for a server that is not there (yet); none waits for ever.

        Raises:
            BusError: No server, no JetStream, or streams that cannot be used; the text says what to do.
        """
        bus = cls(nats.NATS(), url, source)
        try:
            async with asyncio.timeout(wait_sec):
                await bus._open()
        except TimeoutError:
            await bus.close()
            raise BusError(
                f"no NATS server with JetStream at {url}{bus._last_problem}. Start the embedded stack with "
                "`worldloop up`, or check --nats-url / WORLDLOOP_NATS_URL"
            ) from None
        except BaseException:
            await bus.close()
            raise
        return bus

    async def publish(self, message: Message) -> None:
        """See `Bus`."""
        envelope = self._encode(message)
        if not isinstance(message, Telemetry):
            await self._store(envelope, {})
        elif self._nc.is_connected:
            await self._nc.publish(envelope.subject, envelope.data, headers=envelope.headers)

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
        subject = f"worldloop.{run_id or '*'}.event.{name or '*'}"
        messages = await self._patiently(lambda: self._read_all(streams.EVENTS, subject, after))
        records = [await self._record(message) for message in messages]
        return [record for record in records if record is not None]

    async def last_event(self, run_id: str, name: str) -> Recorded | None:
        """See `Bus`."""
        raw = await self._last(f"worldloop.{run_id}.event.{name}")
        if raw is None:
            return None
        time, source = published(raw.headers, raw.time or datetime.now(UTC))
        return Recorded(raw.seq, time, source, decode(raw.subject, raw.data))

    async def follow(
        self, kinds: tuple[Kind, ...] = ("event",), run_id: str | None = None, *, after: int = 0
    ) -> AsyncGenerator[Recorded, None]:
        """See `Bus`."""
        events = self._follow_events(run_id, after)
        if kinds == ("event",):
            async with contextlib.aclosing(events):
                async for record in events:
                    yield record
            return
        merged: asyncio.Queue[Recorded | Exception] = asyncio.Queue()

        async def live(message: Any) -> None:
            record = await self._record(message)
            if record is not None:
                merged.put_nowait(record)

        async def past_and_live() -> None:
            try:
                async with contextlib.aclosing(events):
                    async for record in events:
                        merged.put_nowait(record)
            except BusError as error:
                merged.put_nowait(error)

        subscriptions = [
            await self._nc.subscribe(f"worldloop.{run_id or '*'}.{kind}.>", cb=live)
            for kind in kinds
            if kind != "event"
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
                await self._unsubscribe(subscription)

    async def subscribe(self, consumer: Consumer) -> AsyncGenerator[Delivery, None]:
        """See `Bus`."""
        stream = streams.COMMANDS if consumer.kind == "command" else streams.EVENTS
        config = _durable(consumer)
        while True:
            subscription = None
            try:
                await _faithful(self._js.add_consumer(stream, config))
                subscription = await self._js.pull_subscribe_bind(consumer=config.durable_name, stream=stream)
                while True:
                    for message in await self._pull(subscription, 1):
                        yield _delivery(message, self)
            except (nats.errors.Error, TimeoutError) as error:
                await self._recover(f"consumer {config.durable_name}", error)
            finally:
                await self._unsubscribe(subscription)

    async def dead_letter(self, letter: DeadLetter) -> None:
        """See `Bus`."""
        kept = {key: value for key, value in letter.headers.items() if not key.lower().startswith("nats-")}
        digest = hashlib.sha256(letter.data).hexdigest()[:16]
        ident = f"dead/{letter.service}/{kept.get('ce-id', letter.subject)}/{digest}"
        headers = kept | {
            "worldloop-subject": letter.subject,
            "worldloop-reason": quote(letter.reason, safe=" !#$&'()*+,/:;<=>?@[]^`{|}~"),
            "worldloop-deliveries": str(letter.deliveries),
        }
        subject = f"worldloop.{letter.run_id}.dead.{letter.service}.{letter.name}"
        await self._store(Envelope(subject, letter.data, headers), {"Nats-Msg-Id": ident})

    async def dead_letters(self, run_id: str | None = None) -> list[DeadLetter]:
        """See `Bus`."""
        subject = f"worldloop.{run_id or '*'}.dead.>"
        return [
            _letter(message)
            for message in await self._patiently(lambda: self._read_all(streams.DEAD, subject, 0))
        ]

    async def backlog(self) -> list[Backlog]:
        """See `Bus`."""
        try:
            async with asyncio.timeout(LOOK_SEC):
                durable = [
                    found
                    for stream in (streams.EVENTS, streams.COMMANDS)
                    for found in await _faithful(self._consumers(stream))
                ]
                dead = await _faithful(self._dead_counts())
        except (nats.errors.Error, TimeoutError) as error:
            raise BusError(f"the NATS server at {self._url} does not answer: {error}") from error
        return _backlogs(durable, dead)

    @property
    def connected(self) -> bool:
        """See `Bus`."""
        return bool(self._nc.is_connected)

    async def close(self) -> None:
        """See `Bus`."""
        self._closing = True
        if self._nc.is_connected:
            with contextlib.suppress(
                nats.errors.Error, TimeoutError
            ):  # closing loses nothing that was promised
                await self._nc.flush(timeout=1)
        await self._nc.close()

    # --- connection -----------------------------------------------------------------------------------------

    async def _open(self) -> None:
        try:
            await self._nc.connect(
                self._url.split(","),
                name=f"worldloop {self._source}",
                connect_timeout=2,
                reconnect_time_wait=RETRY_SEC,
                max_reconnect_attempts=-1,
                error_cb=self._on_error,
                disconnected_cb=self._on_disconnected,
                reconnected_cb=self._on_reconnected,
                closed_cb=self._on_closed,
            )
        except (nats.errors.Error, OSError, ValueError) as error:
            raise BusError(f"cannot connect to NATS at {self._url}: {error}. Check the address") from error
        while True:
            try:
                await streams.ensure(self._js)
            except (ServiceUnavailableError, nats.errors.TimeoutError) as error:
                self._last_problem = f" ({error}: JetStream is off or not ready; start nats-server with -js)"
                await asyncio.sleep(RETRY_SEC)
            except APIError as error:
                raise BusError(
                    f"the streams at {self._url} cannot be used: {error.description}. Another program or "
                    "version made them differently: use another server, or move those streams away"
                ) from error
            else:
                return

    async def _on_error(self, error: Exception) -> None:
        if str(error) != self._last_problem.strip(" ()"):
            self._last_problem = f" ({error})"
            log.debug("NATS trouble", problem=str(error))

    async def _on_disconnected(self) -> None:
        if not self._closing:
            log.warning("lost the NATS server; trying to reconnect", url=self._url)

    async def _on_reconnected(self) -> None:
        self._connection += 1
        log.info("connected to the NATS server again", url=self._url)

    async def _on_closed(self) -> None:
        if not self._closing:
            log.error("the NATS connection is closed for good", url=self._url)

    async def _recover(self, what: str, error: Exception) -> None:
        """Wait a moment before a reader is made again.

        Raises:
            BusError: The connection is closed for good.
        """
        if self._nc.is_closed:
            raise BusError(f"the connection to NATS at {self._url} is closed") from error
        log.debug("a reader is made again", reader=what, problem=str(error))
        await asyncio.sleep(RETRY_SEC)

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Call, and call again while the server is away.

        Raises:
            BusError: It stayed away for `PATIENCE_SEC`, or the connection is closed for good.
        """
        deadline = asyncio.get_running_loop().time() + PATIENCE_SEC
        while True:
            try:
                return await _faithful(call())
            except TRANSIENT as error:
                problem = error
            except APIError:
                raise
            except nats.errors.Error as error:
                raise BusError(f"the NATS client refuses: {error}") from error
            if self._nc.is_closed or asyncio.get_running_loop().time() > deadline:
                raise BusError(f"the NATS server at {self._url} does not answer: {problem}") from problem
            await asyncio.sleep(RETRY_SEC)

    # --- writing --------------------------------------------------------------------------------------------

    def _encode(self, message: Message) -> Envelope:
        return encode(message, source=f"/worldloop/{self._source}", time=datetime.now(UTC))

    async def _store(self, envelope: Envelope, extra: dict[str, str]) -> int:
        headers = {"Nats-Msg-Id": envelope.headers.get("ce-id", "")} | envelope.headers | extra
        try:
            ack = await self._patiently(
                lambda: self._js.publish(envelope.subject, envelope.data, headers=headers)
            )
        except APIError as error:
            if error.err_code == WRONG_LAST_SEQUENCE:
                last = LAST_SEQUENCE.search(error.description or "")
                raise SequenceConflict(
                    f"{envelope.subject}: {error.description}", last=int(last[1]) if last else None
                ) from None
            raise BusError(f"{envelope.subject}: NATS refuses the message: {error.description}") from error
        return cast("int", ack.seq)

    # --- reading --------------------------------------------------------------------------------------------

    async def _last(self, subject: str) -> Any:
        """The stored event that is the newest on a subject; none if there is none."""
        try:
            return await self._patiently(lambda: self._js.get_last_msg(streams.EVENTS, subject))
        except NotFoundError:
            return None

    async def _reader(self, stream: str, subject: str, after: int) -> tuple[Any, int]:
        """A reader of its own from a sequence on, and how many messages it has before it."""
        config = ConsumerConfig(
            name=f"reader-{self._nc.new_inbox().rpartition('.')[2]}",
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1,
            ack_policy=AckPolicy.NONE,
            filter_subject=subject,
            mem_storage=True,
            inactive_threshold=READER_IDLE_SEC,
            num_replicas=1,
        )
        info = await _faithful(self._js.add_consumer(stream, config))
        return await self._js.pull_subscribe_bind(consumer=info.name, stream=stream), info.num_pending

    async def _read_all(self, stream: str, subject: str, after: int) -> list[Any]:
        subscription, pending = await self._reader(stream, subject, after)
        try:
            found: list[Any] = []
            while len(found) < pending:
                count = min(BATCH, pending - len(found))
                found += await _faithful(subscription.fetch(count, timeout=REQUEST_SEC))
            return found
        finally:
            await self._unsubscribe(subscription)

    async def _follow_events(self, run_id: str | None, after: int) -> AsyncGenerator[Recorded, None]:
        subject = f"worldloop.{run_id or '*'}.event.*"
        while True:
            subscription = None
            try:
                connection, delivered = self._connection, 0
                subscription, pending = await self._reader(streams.EVENTS, subject, after)
                while connection == self._connection:
                    for message in await self._pull(subscription, min(max(pending, 1), BATCH)):
                        delivered += 1
                        meta = _in_order(message.metadata, delivered)
                        after, pending = meta.sequence.stream, meta.num_pending
                        record = await self._record(message)
                        if record is not None:
                            yield record
            except (nats.errors.Error, TimeoutError) as error:
                await self._recover(f"follower of {subject}", error)
            finally:
                await self._unsubscribe(subscription)

    async def _pull(self, subscription: Any, count: int) -> list[Any]:
        """Up to `count` messages, at once when there is one; none after `PULL_SEC`."""
        try:
            return cast("list[Any]", await _faithful(subscription.fetch(count, timeout=PULL_SEC)))
        except TimeoutError:
            return []

    async def _consumers(self, stream: str) -> list[Any]:
        """What the server knows of a stream's consumers; none where there is no such stream."""
        found: list[Any] = []
        try:
            while True:
                page = await self._js.consumers_info(stream, offset=len(found))
                found += page
                if len(page) < CONSUMERS_PAGE:
                    return found
        except NotFoundError:
            return []

    async def _dead_counts(self) -> dict[str, int]:
        """Subject of dead letters -> how many there are."""
        try:
            state = (await self._js.stream_info(streams.DEAD, subjects_filter="worldloop.*.dead.>")).state
        except NotFoundError:
            return {}
        return dict(state.subjects or {})

    async def _unsubscribe(self, subscription: Any) -> None:
        if subscription is not None:
            with contextlib.suppress(nats.errors.Error, OSError):  # the connection went first
                await subscription.unsubscribe()

    async def _record(self, message: Any) -> Recorded | None:
        """The message with its place in the log; what cannot be read is reported, and none."""
        stored = message.reply.startswith("$JS.ACK.")
        meta = message.metadata if stored else None
        headers = dict(message.headers or {})
        try:
            decoded = decode(message.subject, message.data)
        except MessageError as error:
            log.warning("a message cannot be read", subject=message.subject, problem=str(error))
            service = service_of(self._source)
            if meta is not None and service is not None:
                await self.dead_letter(
                    dead(Envelope(message.subject, message.data, headers), service, str(error))
                )
            return None
        time, source = published(headers, meta.timestamp if meta else datetime.now(UTC))
        return Recorded(
            meta.sequence.stream if meta else 0, time, source, decoded, meta.num_pending if meta else 0
        )


@dataclass(slots=True)
class JetStreamDelivery:
    """A message in the hands of a durable consumer."""

    subject: str
    data: bytes
    headers: dict[str, str]
    deliveries: int
    sequence: int
    _message: Any
    _bus: JetStreamBus

    def message(self) -> Message:
        """See `Delivery`."""
        return decode(self.subject, self.data)

    async def ack(self) -> None:
        """See `Delivery`."""
        await self._bus._patiently(lambda: self._message.ack_sync(timeout=REQUEST_SEC))

    async def nak(self, delay_sec: float = 0.0) -> None:
        """See `Delivery`."""
        await self._bus._patiently(lambda: self._message.nak(delay=delay_sec))

    async def term(self, reason: str) -> None:
        """See `Delivery`."""
        verdict = b"+TERM " + " ".join(reason.split()).encode()
        await self._bus._patiently(lambda: self._bus._nc.publish(self._message.reply, verdict))

    async def in_progress(self) -> None:
        """See `Delivery`."""
        await self._bus._patiently(self._message.in_progress)


async def _faithful(call: Awaitable[T]) -> T:
    """The call's result, or the cancellation that met it.

    Before Python 3.12 `asyncio.wait_for`, on which nats-py is built, forgets a cancellation that comes
    together with the answer; a task that is cancelled once would go on for ever.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    result = await call
    if task.cancelling() > before:
        raise asyncio.CancelledError
    return result


def _in_order(meta: Any, delivered: int) -> Any:
    """The metadata of a reader's message, if it is the one that follows those delivered before."""
    if meta.sequence.consumer != delivered:
        raise nats.errors.Error("a message was lost on the way")
    return meta


def _delivery(message: Any, bus: JetStreamBus) -> JetStreamDelivery:
    meta = message.metadata
    headers = dict(message.headers or {})
    return JetStreamDelivery(
        message.subject, message.data, headers, meta.num_delivered, meta.sequence.stream, message, bus
    )


def _durable(consumer: Consumer) -> ConsumerConfig:
    if consumer.kind == "command":
        subjects = [f"worldloop.*.command.{consumer.service}.>"]
    else:
        subjects = [f"worldloop.*.event.{name}" for name in consumer.names or ("*",)]
    return ConsumerConfig(
        durable_name=consumer.durable,
        deliver_policy=DeliverPolicy.NEW if consumer.only_new else DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=consumer.ack_wait_sec,
        max_deliver=consumer.max_deliver,
        filter_subjects=subjects,
        inactive_threshold=consumer.forget_after_sec,
    )


def _backlogs(consumers: list[Any], dead: dict[str, int]) -> list[Backlog]:
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


def _letter(message: Any) -> DeadLetter:
    headers = dict(message.headers or {})
    _, run_id, _, service, *name = message.subject.split(".")
    return DeadLetter(
        run_id=run_id,
        service=service,
        name=".".join(name),
        subject=headers.pop("worldloop-subject", message.subject),
        reason=unquote(headers.pop("worldloop-reason", "")),
        deliveries=int(headers.pop("worldloop-deliveries", "0")),
        data=message.data,
        headers={key: value for key, value in headers.items() if not key.startswith("Nats-")},
    )
