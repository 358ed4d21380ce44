"""Processes of one event loop that die where the test wants: before or after any of their outward effects.

An effect is whatever outlives a process: a message published, acked or given back, a file opened for writing,
a file or directory made, renamed, cut or removed. They are counted per name over all lives of a process. One
that has died has no further effect, whatever its `finally` clauses try.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.bus.memory import Broker, MemoryBus
from shared.bus.protocol import Consumer, DeadLetter, Delivery, Recorded
from shared.errors import BusError
from shared.events import Event, Message, Telemetry

PATIENCE_SEC, RETRY_SEC = 60.0, 0.1
"""How long a call goes on trying while the server is away, and its pause."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
TOUCHES = frozenset({"os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.truncate", "os.link"})

_current: ContextVar[Process | None] = ContextVar("process", default=None)


class Died(BaseException):
    """The process is no more."""


@dataclass
class Fate:
    """What processes have done, and which effect is their last."""

    deaths: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Name of a process -> numbers of the effects that it dies at."""
    effects: dict[str, list[str]] = field(default_factory=dict)
    """Name -> its effects so far, over all its lives."""
    died: Counter[str] = field(default_factory=Counter)


@dataclass(eq=False)
class Process:
    """One life."""

    name: str
    fate: Fate
    over: asyncio.Event = field(default_factory=asyncio.Event)
    children: list[Process] = field(default_factory=list)
    """Die with it."""
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def start(self, main: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin to live."""
        context = copy_context()
        context.run(_current.set, self)
        task = asyncio.get_running_loop().create_task(main, context=context)
        self.tasks.add(task)
        return task

    def effect(self, what: str) -> None:
        """Have an outward effect, unless this is where it dies."""
        if self.over.is_set():
            raise Died
        done = self.fate.effects.setdefault(self.name, [])
        done.append(what)
        if len(done) - 1 in self.fate.deaths.get(self.name, ()):
            self.fate.died[self.name] += 1
            self.kill()
            raise Died

    def kill(self) -> None:
        """Be no more."""
        self.over.set()
        for child in self.children:
            child.kill()
        now = asyncio.current_task()
        for task in self.tasks:
            if task is not now:
                task.cancel()


def task_of_process(loop: asyncio.AbstractEventLoop, coroutine: Any, **given: Any) -> asyncio.Task[Any]:
    """Task factory: a process knows its tasks, so that they end with it."""
    task = asyncio.Task(coroutine, loop=loop, **given)
    context = given.get("context")
    process = _current.get() if context is None else context.get(_current)
    if process is not None:
        process.tasks.add(task)
        task.add_done_callback(process.tasks.discard)
    return task


def watch_files(root: Path) -> None:
    """From now on what processes do to files below a directory is an effect of theirs; for good."""
    start = str(root)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        process = _current.get()
        if process is None or (event != "open" and event not in TOUCHES):
            return
        path = str(arguments[0])
        if path.startswith(start) and (event != "open" or (arguments[2] or 0) & WRITES):
            process.effect(f"{event} {path[len(start) :]}")

    sys.addaudithook(hook)


@dataclass
class Server:
    """When the server behind the broker is away."""

    leaves_at: int | None = None
    """At the so many-th request of all; none stays."""
    stays_away_sec: float = 0.0
    requests: int = 0
    back: float = 0.0
    """Loop time at which it is there again."""

    @property
    def there(self) -> bool:
        """Whether it answers."""
        return asyncio.get_running_loop().time() >= self.back

    async def answer(self) -> None:
        """Take a request.

        Raises:
            BusError: It stays away for longer than a service waits.
        """
        if self.requests == self.leaves_at:
            self.back = asyncio.get_running_loop().time() + self.stays_away_sec
        self.requests += 1
        try:
            async with asyncio.timeout(PATIENCE_SEC):
                while not self.there:  # noqa: ASYNC110 - as the real bus does
                    await asyncio.sleep(RETRY_SEC)
        except TimeoutError:
            raise BusError("the server does not answer") from None


class MortalBus(MemoryBus):
    """A process's bus: what it publishes and settles are effects, one before and one after each."""

    def __init__(self, process: Process, source: str, broker: Broker, server: Server) -> None:
        super().__init__(source, broker=broker)
        self._process, self._server = process, server

    @property
    def connected(self) -> bool:
        return self._server.there

    async def events(self, *given: Any, **named: Any) -> list[Recorded]:
        await self._server.answer()
        return await super().events(*given, **named)

    async def follow(self, *given: Any, **named: Any) -> AsyncGenerator[Recorded, None]:
        async with aclosing(super().follow(*given, **named)) as records:
            async for record in records:
                while not self._server.there:  # noqa: ASYNC110 - as the real bus does
                    await asyncio.sleep(RETRY_SEC)
                yield record

    async def publish(self, message: Message) -> None:
        if isinstance(message, Telemetry):
            if self._process.over.is_set():
                raise Died
            if self._server.there:
                await super().publish(message)
            return
        self._process.effect(f"before publish {message.name}")
        await self._server.answer()
        await super().publish(message)
        self._process.effect(f"after publish {message.name}")

    async def append(self, event: Event, *, after: int) -> int:
        self._process.effect(f"before append {event.name}")
        await self._server.answer()
        sequence = await super().append(event, after=after)
        self._process.effect(f"after append {event.name}")
        return sequence

    async def dead_letter(self, letter: DeadLetter) -> None:
        self._process.effect(f"before dead letter {letter.name}")
        await super().dead_letter(letter)

    async def subscribe(self, consumer: Consumer) -> AsyncGenerator[Delivery, None]:
        async with aclosing(super().subscribe(consumer)) as deliveries:
            async for delivery in deliveries:
                if self._process.over.is_set():
                    raise Died
                while not self._server.there:  # noqa: ASYNC110 - as the real bus does
                    await asyncio.sleep(RETRY_SEC)
                yield _Mortal(delivery, self._process, self._server)


class _Mortal:
    """A delivery in the hands of a process."""

    def __init__(self, delivery: Delivery, process: Process, server: Server) -> None:
        self.subject, self.data, self.headers = delivery.subject, delivery.data, delivery.headers
        self.deliveries, self.sequence = delivery.deliveries, delivery.sequence
        self._delivery, self._process, self._server = delivery, process, server
        self._name = delivery.subject.rpartition(".")[2]

    def message(self) -> Message:
        return self._delivery.message()

    async def ack(self) -> None:
        self._process.effect(f"before ack {self._name}")
        await self._server.answer()
        await self._delivery.ack()
        self._process.effect(f"after ack {self._name}")

    async def nak(self, delay_sec: float = 0.0) -> None:
        self._process.effect(f"before nak {self._name}")
        await self._delivery.nak(delay_sec)

    async def term(self, reason: str) -> None:
        self._process.effect(f"before term {self._name}")
        await self._delivery.term(reason)

    async def in_progress(self) -> None:
        await self._delivery.in_progress()
