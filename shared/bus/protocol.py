"""The bus port: what the services need of a message bus.

Two implementations stand under one contract (tests/contract): `shared.bus.memory` and `shared.bus.jetstream`.
Events are kept for ever in one ordered log; commands wait in a work queue until acked; telemetry may be lost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from shared.events import Event, Kind, Message, Service


@dataclass(frozen=True, slots=True)
class Recorded:
    """A message as the log holds it."""

    sequence: int
    """Position in its stream, rising from 1, over all runs."""
    time: datetime
    """When it was published (`ce-time`), UTC."""
    source: str
    """Who published it (`ce-source`)."""
    message: Message
    pending: int = 0
    """Messages after this one that were there when it was delivered; 0 means caught up."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message nobody could handle, with the reason."""

    run_id: str
    service: Service
    name: str
    """Last part(s) of its subject."""
    subject: str
    reason: str
    deliveries: int
    data: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Consumer:
    """A durable pull consumer: it remembers what was acked across restarts of its process."""

    service: Service
    kind: Literal["command", "event"]
    names: tuple[str, ...] = ()
    """Event names wanted; empty wants all. Commands are always those of the service."""
    ack_wait_sec: float = 30.0
    max_deliver: int = 20


class Delivery(Protocol):
    """One message in the hands of a consumer. Exactly one of ack, nak, term settles it."""

    subject: str
    data: bytes
    headers: dict[str, str]
    deliveries: int
    """How often this message was delivered, from 1."""
    sequence: int

    def message(self) -> Message:
        """Decode it.

        Raises:
            MessageError: It is no message of ours; the text says why.
        """
        ...

    async def ack(self) -> None:
        """Done; durable when this returns."""
        ...

    async def nak(self, delay_sec: float = 0.0) -> None:
        """Not now; deliver again after the delay."""
        ...

    async def term(self, reason: str) -> None:
        """Never again."""
        ...

    async def in_progress(self) -> None:
        """Still working: start the ack wait anew."""
        ...


class Bus(Protocol):
    """A message bus. All methods raise `BusError` when it cannot be reached for longer than they can wait."""

    async def publish(self, message: Message) -> None:
        """Publish; durable on return (telemetry: fire and forget). The same id twice counts once."""
        ...

    async def append(self, event: Event, *, after: int) -> int:
        """Append to a run's events if its last event still has sequence `after` (0: the run has none).

        Returns:
            The event's sequence.

        Raises:
            SequenceConflict: Another event of the run came first.
        """
        ...

    async def events(self, run_id: str | None = None, *, after: int = 0) -> list[Recorded]:
        """All events so far, of one run or of all, with a sequence above `after`, in order."""
        ...

    async def last_event(self, run_id: str, name: str) -> Recorded | None:
        """The newest event of that name in a run."""
        ...

    def follow(
        self, kinds: tuple[Kind, ...] = ("event",), run_id: str | None = None, *, after: int = 0
    ) -> AsyncGenerator[Recorded, None]:
        """Messages in order, first the past (events above `after`), then as they come; for ever.

        Telemetry and commands start at now and have sequence 0. A reader of its own: nothing is acked,
        nothing taken from anyone. Goes on after the server was away, without gaps or repeats among events.
        What cannot be read is logged and left out; a service's bus also makes it a dead letter.
        """
        ...

    def subscribe(self, consumer: Consumer) -> AsyncGenerator[Delivery, None]:
        """Deliveries of a durable consumer, one at a time, for ever."""
        ...

    async def dead_letter(self, letter: DeadLetter) -> None:
        """Keep a message that cannot be handled, on `worldloop.<run_id>.dead.<service>.<name>`."""
        ...

    async def dead_letters(self, run_id: str | None = None) -> list[DeadLetter]:
        """All dead letters, of one run or of all."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the bus can be reached now."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...
