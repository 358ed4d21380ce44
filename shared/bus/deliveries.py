"""Durable consumers over JetStream: their configuration, what they deliver, and dead letters as stored."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from shared.bus.connection import REQUEST_SEC, Connection
from shared.bus.protocol import Consumer, DeadLetter
from shared.bus.wire import Envelope, decode
from shared.events import Message

MOST_HEADERS, MOST_HEADER, MANY_HEADERS = 16_000, 1_000, 16
"""Bytes of a dead letter's own headers that are kept as they are; else of each, and how many."""
ROOM = 64 * 1024
"""Bytes of a message that the server takes for headers at most."""


@dataclass(slots=True)
class JetStreamDelivery:
    """A message in the hands of a durable consumer."""

    subject: str
    data: bytes
    headers: dict[str, str]
    deliveries: int
    sequence: int
    _message: Any
    _connection: Connection

    @classmethod
    def of(cls, message: Any, connection: Connection) -> JetStreamDelivery:
        """What the client gave us."""
        meta, headers = message.metadata, dict(message.headers or {})
        return cls(
            message.subject,
            message.data,
            headers,
            meta.num_delivered,
            meta.sequence.stream,
            message,
            connection,
        )

    def message(self) -> Message:
        """See `Delivery`."""
        return decode(self.subject, self.data)

    async def ack(self) -> None:
        """See `Delivery`."""
        await self._connection.patiently(
            lambda: self._message.ack_sync(timeout=REQUEST_SEC), self._message.reply
        )

    async def nak(self, delay_sec: float = 0.0) -> None:
        """See `Delivery`."""
        await self._connection.patiently(lambda: self._message.nak(delay=delay_sec))

    async def term(self, reason: str) -> None:
        """See `Delivery`."""
        verdict = b"+TERM " + " ".join(reason.split()).encode()
        await self._connection.patiently(lambda: self._connection.nc.publish(self._message.reply, verdict))

    async def in_progress(self) -> None:
        """See `Delivery`."""
        await self._connection.patiently(self._message.in_progress)


def durable(consumer: Consumer) -> ConsumerConfig:
    """The consumer as the server is asked for it.

    One subject goes into the request's subject as well, so that the server's permissions can hold a service
    to its own commands.
    """
    single = consumer.subjects[0] if len(consumer.subjects) == 1 else None
    return ConsumerConfig(
        name=consumer.durable,
        durable_name=consumer.durable,
        deliver_policy=DeliverPolicy.NEW if consumer.only_new else DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=consumer.ack_wait_sec,
        max_deliver=consumer.max_deliver,
        filter_subject=single,
        filter_subjects=consumer.subjects if single is None else None,
        inactive_threshold=consumer.forget_after_sec,
    )


def stored(letter: DeadLetter, most: int) -> tuple[Envelope, str]:
    """A dead letter as it is published, and the id by which it is stored once.

    It always fits: of a message that fills a whole one the end is cut off, and headers out of proportion go.

    Args:
        letter: What to keep.
        most: Bytes that the server takes, headers included.
    """
    kept = {key: value for key, value in letter.headers.items() if not key.lower().startswith("nats-")}
    if sum(len(key) + len(value) for key, value in kept.items()) > MOST_HEADERS:
        kept = {key: value for key, value in kept.items() if len(key) + len(value) < MOST_HEADER}
        kept = dict(list(kept.items())[:MANY_HEADERS])
    digest = hashlib.sha256(letter.data).hexdigest()[:16]
    headers = kept | {
        "worldloop-subject": letter.subject,
        "worldloop-reason": quote(letter.reason, safe=" !#$&'()*+,/:;<=>?@[]^`{|}~"),
        "worldloop-deliveries": str(letter.deliveries),
    }
    subject = f"worldloop.{letter.run_id}.dead.{letter.service}.{letter.name}"
    ident = f"dead/{letter.service}/{kept.get('ce-id', letter.subject)}/{digest}"
    return Envelope(subject, letter.data[: most - ROOM], headers), ident


def letter(message: Any) -> DeadLetter:
    """The dead letter that was stored."""
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
