"""The bus in memory: the test double of the port, and all of NATS that a test of one process needs."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shared.bus.protocol import Backlog, Consumer, DeadLetter, Delivery, Recorded
from shared.bus.wire import Envelope, dead, decode, encode, published, service_of
from shared.errors import MessageError, SequenceConflict
from shared.events import SERVICES, Event, Kind, Message


@dataclass(slots=True, eq=False)
class _Item:
    """A message as one durable consumer sees it."""

    sequence: int
    envelope: Envelope
    deliveries: int = 0
    due: float = 0.0
    """Loop time from which on it may be delivered."""


@dataclass(slots=True)
class Broker:
    """The server's part: what the buses of one test share."""

    log: list[tuple[int, Envelope]] = field(default_factory=list)
    """Events with their sequences."""
    queues: dict[tuple[str, str], list[_Item]] = field(default_factory=dict)
    """(service, name of its durable consumer) -> what that has not settled."""
    wanted: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    """The same of consumers of events -> event names they want."""
    sequences: dict[str, int] = field(default_factory=dict)
    """`ce-id` -> sequence, for deduplication."""
    last: int = 0
    """The highest sequence."""
    listeners: list[asyncio.Queue[tuple[int, Envelope]]] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, envelope: Envelope) -> int:
        """Take a message, once per `ce-id`; its sequence (0 for telemetry, which is not kept)."""
        _, _, kind, *name = envelope.subject.split(".")
        known = self.sequences.get(envelope.headers["ce-id"])
        if known is not None:
            return known
        sequence = 0
        if kind != "telemetry":
            sequence = self.sequences[envelope.headers["ce-id"]] = self.last = self.last + 1
        if kind == "command":
            service, _, *host = name
            queue = "-".join((f"{service}-commands", *(f"node-{rank}" for rank in host)))
            self.queues.setdefault((service, queue), []).append(_Item(sequence, envelope))
        elif kind == "event":
            self.log.append((sequence, envelope))
            for consumer, names in self.wanted.items():
                if not names or name[0] in names:
                    self.queues[consumer].append(_Item(sequence, envelope))
        for listener in self.listeners:
            listener.put_nowait((sequence, envelope))
        self.notify()
        return sequence

    def queue(self, consumer: Consumer) -> list[_Item]:
        """The unsettled messages of a durable consumer, which is made if it is new."""
        key = (consumer.service, consumer.durable)
        if consumer.kind == "event" and key not in self.wanted:
            self.wanted[key] = consumer.names
            self.queues[key] = [
                _Item(sequence, envelope)
                for sequence, envelope in ([] if consumer.only_new else self.log)
                if not consumer.names or envelope.subject.rpartition(".")[2] in consumer.names
            ]
        return self.queues.setdefault(key, [])

    def notify(self) -> None:
        """Wake whoever waits for something to happen."""
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass(slots=True)
class MemoryDelivery:
    """A message in the hands of a consumer."""

    subject: str
    data: bytes
    headers: dict[str, str]
    deliveries: int
    sequence: int
    _broker: Broker
    _consumer: Consumer
    _item: _Item

    def message(self) -> Message:
        """See `Delivery`."""
        return decode(self.subject, self.data)

    async def ack(self) -> None:
        """See `Delivery`."""
        queue = self._broker.queue(self._consumer)
        if self._item in queue:
            queue.remove(self._item)

    async def nak(self, delay_sec: float = 0.0) -> None:
        """See `Delivery`."""
        self._item.due = asyncio.get_running_loop().time() + delay_sec
        self._broker.notify()

    async def term(self, reason: str) -> None:  # noqa: ARG002 - the server's business, and there is none
        """See `Delivery`."""
        await self.ack()

    async def in_progress(self) -> None:
        """See `Delivery`."""
        await self.nak(self._consumer.ack_wait_sec)


class MemoryBus:
    """A `Bus` without a server.

    Args:
        source: Service (or cli) this bus is of, for `ce-source`.
        broker: What several buses of a test share; a new one if none.
    """

    def __init__(self, source: str = "cli", *, broker: Broker | None = None) -> None:
        self.broker = broker if broker is not None else Broker()
        self._source = source
        self._open = True

    async def publish(self, message: Message) -> None:
        """See `Bus`."""
        self.broker.put(self._encode(message))

    async def append(self, event: Event, *, after: int) -> int:
        """See `Bus`."""
        envelope = self._encode(event)
        last = max((sequence for sequence, e in self.broker.log if _of_run(e, event.run_id)), default=0)
        if last != after:
            problem = f"{event.id}: the run's last event has sequence {last}, not {after}"
            raise SequenceConflict(problem, last=last)
        return self.broker.put(envelope)

    async def events(
        self, run_id: str | None = None, *, after: int = 0, name: str | None = None
    ) -> list[Recorded]:
        """See `Bus`."""
        found = [
            (s, envelope)
            for s, envelope in self.broker.log
            if s > after and _of_run(envelope, run_id) and name in (None, envelope.subject.split(".")[-1])
        ]
        records = [self._record(s, envelope, len(found) - n) for n, (s, envelope) in enumerate(found, 1)]
        return [record for record in records if record is not None]

    async def past(
        self, run_id: str | None = None, *, after: int = 0, name: str | None = None
    ) -> AsyncGenerator[Recorded, None]:
        """See `Bus`."""
        for record in await self.events(run_id, after=after, name=name):
            yield record

    async def last_event(self, run_id: str, name: str) -> Recorded | None:
        """See `Bus`."""
        found = [record for record in await self.events(run_id) if record.message.name == name]
        return found[-1] if found else None

    async def follow(
        self,
        kinds: tuple[Kind, ...] = ("event",),
        run_id: str | None = None,
        *,
        after: int = 0,
        names: tuple[str, ...] = (),
    ) -> AsyncGenerator[Recorded, None]:
        """See `Bus`."""
        live: asyncio.Queue[tuple[int, Envelope]] = asyncio.Queue()
        self.broker.listeners.append(live)
        try:
            if "event" in kinds:
                for record in await self.events(run_id, after=after):
                    after = record.sequence
                    yield record
            while True:
                sequence, envelope = await live.get()
                kind = envelope.subject.split(".")[2]
                if (
                    kind not in kinds
                    or not _of_run(envelope, run_id)
                    or (kind == "event" and sequence <= after)
                    or (kind != "event" and names and envelope.subject.rpartition(".")[2] not in names)
                ):
                    continue
                fresh = self._record(sequence if kind == "event" else 0, envelope, live.qsize())
                if fresh is not None:
                    yield fresh
        finally:
            self.broker.listeners.remove(live)

    async def subscribe(self, consumer: Consumer) -> AsyncGenerator[Delivery, None]:
        """See `Bus`."""
        now = asyncio.get_running_loop().time
        while True:
            changed = self.broker.changed
            waiting = [item for item in self.broker.queue(consumer) if item.deliveries < consumer.max_deliver]
            item = next((item for item in waiting if item.due <= now()), None)
            if item is None:
                pause = min((item.due - now() for item in waiting), default=None)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await changed.wait()
                continue
            item.deliveries += 1
            item.due = now() + consumer.ack_wait_sec
            envelope, headers = item.envelope, dict(item.envelope.headers)
            yield MemoryDelivery(
                envelope.subject,
                envelope.data,
                headers,
                item.deliveries,
                item.sequence,
                self.broker,
                consumer,
                item,
            )

    async def dead_letter(self, letter: DeadLetter) -> None:
        """See `Bus`."""
        self.broker.dead.append(letter)

    async def dead_letters(self, run_id: str | None = None) -> list[DeadLetter]:
        """See `Bus`."""
        return [letter for letter in self.broker.dead if run_id in (None, letter.run_id)]

    async def backlog(self) -> list[Backlog]:
        """See `Bus`."""
        found: list[Backlog] = []
        for service in SERVICES:
            queues = [queue for (of, _), queue in self.broker.queues.items() if of == service]
            dead = Counter(letter.run_id for letter in self.broker.dead if letter.service == service)
            if queues or dead:
                times = [item.deliveries for queue in queues for item in queue]
                found.append(
                    Backlog(
                        service,
                        waiting=times.count(0),
                        unsettled=len(times) - times.count(0),
                        redelivered=sum(count > 1 for count in times),
                        dead=dict(dead),
                    )
                )
        return found

    @property
    def connected(self) -> bool:
        """See `Bus`."""
        return self._open

    async def close(self) -> None:
        """See `Bus`."""
        self._open = False

    def _encode(self, message: Message) -> Envelope:
        return encode(message, source=f"/worldloop/{self._source}", time=datetime.now(UTC))

    def _record(self, sequence: int, envelope: Envelope, pending: int) -> Recorded | None:
        try:
            message = decode(envelope.subject, envelope.data)
        except MessageError as error:
            service = service_of(self._source)
            if service is not None:
                self.broker.dead.append(dead(envelope, service, str(error)))
            return None
        time, source = published(envelope.headers, datetime.now(UTC))
        return Recorded(sequence, time, source, message, pending)


def _of_run(envelope: Envelope, run_id: str | None) -> bool:
    return run_id is None or envelope.subject.split(".")[1] == run_id
