"""The bus port: what the services need of a message bus.

Two implementations stand under one contract (tests/contract): `shared.bus.memory` and `shared.bus.jetstream`.
Events are kept for ever in one ordered log; commands wait in a work queue until acked; telemetry may be lost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
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
    node_rank: int = 0
    """Of a service that runs on several hosts; the others than 0 take commands that name them."""
    purpose: str = ""
    """Of a service's further consumer, with a place in the log of its own: letters, digits, `-`, `_`."""
    only_new: bool = False
    """Made new, it begins with what is published from then on."""
    forget_after_sec: float | None = None
    """Unused for so long, its place in the log is forgotten; none keeps it for ever."""

    @property
    def durable(self) -> str:
        """Its name on the server."""
        host = f"-node-{self.node_rank}" if self.node_rank else ""
        return f"{self.service}-{self.kind}s{host}" + (f"-{self.purpose}" if self.purpose else "")

    @property
    def subjects(self) -> list[str]:
        """What it takes."""
        if self.kind == "command":
            host = f".{self.node_rank}" if self.node_rank else ""
            return [f"worldloop.*.command.{self.service}.*{host}"]
        return [f"worldloop.*.event.{name}" for name in self.names or ("*",)]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a service has before it, over all runs and its durable consumers, and what it could not handle."""

    service: Service
    waiting: int = 0
    """Messages its consumers have not yet taken."""
    unsettled: int = 0
    """Messages taken and not yet acked or terminated; one that was given back counts until it comes again."""
    redelivered: int = 0
    """Of those, how many were delivered more than once."""
    dead: Mapping[str, int] = field(default_factory=dict)
    """Run -> its dead letters of this service."""


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

    async def events(
        self, run_id: str | None = None, *, after: int = 0, name: str | None = None
    ) -> list[Recorded]:
        """All events so far, of one run or of all, with a sequence above `after`, in order.

        With `name` those of that name alone; the others are not even read.
        """
        ...

    def past(
        self, run_id: str | None = None, *, after: int = 0, name: str | None = None
    ) -> AsyncGenerator[Recorded, None]:
        """The same, one after the other: the memory it takes to read them does not grow with the log."""
        ...

    async def last_event(self, run_id: str, name: str) -> Recorded | None:
        """The newest event of that name in a run; none if there is none that can be read."""
        ...

    def follow(
        self,
        kinds: tuple[Kind, ...] = ("event",),
        run_id: str | None = None,
        *,
        after: int = 0,
        names: tuple[str, ...] = (),
    ) -> AsyncGenerator[Recorded, None]:
        """Messages in order, first the past (events above `after`), then as they come; for ever.

        Telemetry and commands start at now and have sequence 0; with `names` only those come of them, and who
        cannot keep up with them misses some. A reader of its own: nothing is acked,
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

    async def backlog(self) -> list[Backlog]:
        """What each service has before it; one that has no consumer and no dead letters is left out.

        Cheap, and for display: a server that does not answer within seconds is a `BusError`, not waited for.
        """
        ...

    @property
    def connected(self) -> bool:
        """Whether the bus can be reached now."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...
