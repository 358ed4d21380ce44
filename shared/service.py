"""The runtime of a service: the one place that decodes, calls handlers, publishes their answers, and settles.

A handler is `async (message, deps) -> list[message]`: it neither publishes nor acks. Work that outlives a
message is a job: the handler starts it and returns, and what the job returns is published when it ends.

How a message is settled:

=====================================  =====================================================================
the handler                            the message
=====================================  =====================================================================
returns                                its answers are published, then it is acked
raises `Retry`                         comes again after its delay
raises `Reject`, or cannot be decoded  dead letter with the reason
raises anything else                   is logged with traceback and comes again, later each time
was given it 5 times in vain           dead letter with the last reason
was given it 5 times and never ended   dead letter before it is handled again: it kills its handler
=====================================  =====================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from shared import logs
from shared.bundle import Bundle
from shared.bus.identity import shown
from shared.bus.jetstream import JetStreamBus
from shared.bus.protocol import Bus, Consumer, Delivery
from shared.bus.wire import Envelope, dead
from shared.errors import BusError, ConfigurationError, MessageError, Reject, Retry, WorldloopError
from shared.events import (
    MESSAGES,
    NO_RUN,
    RUN_ID,
    Command,
    Event,
    Heartbeat,
    Message,
    RunQueued,
    RunSpec,
    RunStarted,
    Service,
    SpecEvent,
)
from shared.recent import Recent
from shared.settings import Settings

MAX_DELIVERIES = 5
"""Deliveries after which a message is a dead letter."""
ACK_WAIT_SEC = 4.0
"""Silence after which the server gives a message to the next process of the service. Short, so that recovery
begins within 5 s of a death."""
MOST_RUNS = 256
"""Runs that a process remembers; of others it reads again what they are."""
THREADS_SEC = 5.0
"""How long the end of a process waits for work in threads, which nobody can cancel."""
FIRST_BACKOFF_SEC = 0.2
"""Delay after the first failure of a handler; four times as long after each further one."""

M = TypeVar("M", bound=Message)
D = TypeVar("D")
Handler = Callable[[M, D], Awaitable[list[Message]]]

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Jobs:
    """Work that outlives the message that started it.

    Give it to the `App` as `jobs`: its keys join the heartbeats, a job that raises ends the service (its
    supervisor starts it again and its own recovery goes on from there), and the service's end cancels it.

    Args:
        bus: Where the messages a job returns are published.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._failures: asyncio.Queue[Exception] = asyncio.Queue()

    @property
    def running(self) -> list[str]:
        """Keys of the jobs that have not ended, oldest first."""
        return list(self._tasks)

    def start(self, key: str, work: Coroutine[Any, Any, list[Message]]) -> bool:
        """Start a job; one that runs under the same key already goes on, and `work` is dropped.

        Args:
            key: Id of the command it works on.
            work: What to do; the messages it returns are published.

        Returns:
            Whether it was started.
        """
        if key in self._tasks:
            work.close()
            return False
        task = self._tasks[key] = asyncio.create_task(self._work(key, work), name=key)
        task.add_done_callback(lambda _: self._end(key, work))
        return True

    async def supervise(self) -> None:
        """Wait for a job to fail, and raise its error."""
        raise await self._failures.get()

    async def cancel(self, key: str | None = None) -> None:
        """Cancel one job, or all, and wait until they have ended."""
        tasks = [task for name, task in self._tasks.items() if key in (None, name)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, key: str, work: Coroutine[Any, Any, list[Message]]) -> None:
        try:
            for message in await work:
                await self._bus.publish(message)
        except Exception as error:
            log.exception("a job failed", job=key)
            self._failures.put_nowait(error)

    def _end(self, key: str, work: Coroutine[Any, Any, list[Message]]) -> None:
        del self._tasks[key]
        work.close()  # was never started if the job was cancelled at once


class Runs:
    """What the runs are, read from the log; the last `MOST_RUNS` are remembered.

    Args:
        bus: Where the runs' events are.
        settings: `output_root` says where this process finds bundles, when not where they were started.
    """

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._bus, self._settings = bus, settings
        self._specs: Recent[str, RunSpec] = Recent(MOST_RUNS)

    async def spec(self, run_id: str) -> RunSpec:
        """What the run is to do.

        Raises:
            Retry: The log has neither `run_started` nor `run_queued` of the run.
        """
        known = self._specs.get(run_id)
        if known is not None:
            return known
        for name in (RunStarted.name, RunQueued.name):
            found = await self._bus.last_event(run_id, name)
            if found is not None and isinstance(found.message, SpecEvent):
                return self._specs.put(run_id, found.message.spec)
        raise Retry(f"run {run_id} is in no run_started or run_queued event of this NATS server")

    async def place(self, run_id: str) -> Bundle:
        """The run's directory, to look at.

        Raises:
            Retry: As `spec`.
        """
        spec = await self.spec(run_id)
        root = self._settings.output_root
        return Bundle(Path(spec.bundle) if root is None else root / run_id, spec.run_name)

    async def bundle(self, run_id: str) -> Bundle:
        """The run's directory, to work in; from now on the run's log lines go there too.

        Raises:
            Retry: As `spec`.
        """
        bundle = await self.place(run_id)
        logs.write_run(run_id, bundle.logs)
        return bundle


@dataclass(frozen=True, slots=True)
class App(Generic[D]):
    """A service, wired: what `bootstrap` returns."""

    service: Service
    deps: D
    """Given to every handler."""
    handlers: Mapping[type[Message], Handler[Any, D]]
    """Class of command or event -> handler; a base class stands for all its messages."""
    background: Sequence[Callable[[], Awaitable[None]]] = ()
    """Run beside the handlers; one that raises ends the service."""
    working_on: Callable[[], list[str]] = field(default=list)
    """Ids of commands in work, besides those in handlers and jobs."""
    jobs: Jobs | None = None
    node_rank: int = 0
    """Which host of several this is, of a service that runs on several."""


async def serve(app: App[D], bus: Bus, settings: Settings) -> None:
    """Consume, handle, settle, send heartbeats; until cancelled.

    Raises:
        ExceptionGroup: A background task, a job or the bus failed.
    """
    runtime = _Runtime(app, bus, settings)
    try:
        async with asyncio.TaskGroup() as group:
            for consumer in runtime.consumers():
                group.create_task(runtime.consume(consumer))
            for work in app.background:
                group.create_task(_awaited(work()))
            if app.jobs is not None:
                group.create_task(app.jobs.supervise())
            group.create_task(runtime.heartbeats())
    finally:
        if app.jobs is not None:
            await app.jobs.cancel()


def run(
    service: Service,
    bootstrap: Callable[[Bus, Settings], Awaitable[App[Any]]],
    settings: Settings | None = None,
) -> None:
    """`main()` of every service: logging, connection, signals, `serve`.

    Waits for a NATS server that is not there yet. SIGTERM and SIGINT end it cleanly with exit code 0; what it
    was handling comes again. So does what was at work in a thread: `THREADS_SEC` later that is left, as by a
    kill. Anything that fails is logged and ends the process with exit code 1.

    Args:
        service: Name of the service.
        bootstrap: Wires the service once the bus is connected.
        settings: Of this process; none reads them from the environment.
    """
    settings = Settings() if settings is None else settings
    logs.configure(service, settings)
    with contextlib.ExitStack() as ended:

        async def main() -> int:
            code = await _main(service, bootstrap, settings)
            timer = threading.Timer(THREADS_SEC, _leave, (code,))
            timer.daemon = True
            timer.start()  # from here on the loop waits for its threads, however long they take
            ended.callback(timer.cancel)
            return code

        try:
            code = asyncio.run(main())
        except KeyboardInterrupt:  # where the loop cannot handle signals itself
            code = 0
    sys.exit(code)


def _leave(code: int) -> None:
    log.warning("left in the middle of work in a thread; what it was for comes again")
    os._exit(code)


async def _main(
    service: Service, bootstrap: Callable[[Bus, Settings], Awaitable[App[Any]]], settings: Settings
) -> int:
    asked = asyncio.Event()
    _on_signals(asked.set)
    work = asyncio.create_task(_connect_and_serve(service, bootstrap, settings))
    stop = asyncio.create_task(asked.wait())
    await asyncio.wait((work, stop), return_when=asyncio.FIRST_COMPLETED)
    work.cancel()
    stop.cancel()
    try:
        await work
    except asyncio.CancelledError:
        log.info("stopped")
    except Exception as error:
        for part in _parts(error):
            if isinstance(part, WorldloopError):
                log.critical("cannot go on", problem=str(part))
            else:
                log.critical("died", exc_info=part)
        return 1
    return 0


def _parts(error: Exception) -> Iterator[Exception]:
    """The errors that a group is made of; one that is no group is its own."""
    if isinstance(error, ExceptionGroup):
        for each in error.exceptions:
            yield from _parts(each)
    else:
        yield error


async def _connect_and_serve(
    service: Service, bootstrap: Callable[[Bus, Settings], Awaitable[App[Any]]], settings: Settings
) -> None:
    if settings.nats_url is None:
        raise ConfigurationError(
            "environment",
            "WORLDLOOP_NATS_URL",
            "not set, so there is no NATS server to connect to",
            "Start the embedded stack with `worldloop up`, or set it to your server's address",
        )
    log.info("connecting", url=shown(settings.nats_url))
    bus = await JetStreamBus.connect(
        settings.nats_url,
        source=service,
        wait_sec=None,
        key=settings.nats_key,
        ca=settings.nats_ca,
        replicas=settings.nats_replicas,
    )
    try:
        app = await bootstrap(bus, settings)
        log.info("started", pid=os.getpid())
        await serve(app, bus, settings)
    finally:
        await bus.close()


def _on_signals(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows: KeyboardInterrupt instead
            asyncio.get_running_loop().add_signal_handler(number, stop)


async def _awaited(work: Awaitable[None]) -> None:
    await work


class _Runtime(Generic[D]):
    """The loops of one served app."""

    def __init__(self, app: App[D], bus: Bus, settings: Settings) -> None:
        self._app, self._bus, self._settings = app, bus, settings
        self._handling: list[str] = []

    def consumers(self) -> list[Consumer]:
        """The durable consumers this app needs."""
        app, wanted = self._app, [cls for cls in MESSAGES.values() if self._handler(cls) is not None]
        events = tuple(sorted(cls.name for cls in wanted if issubclass(cls, Event)))
        consumers = []
        host = app.node_rank
        if any(issubclass(cls, Command) for cls in wanted):
            consumers.append(Consumer(app.service, "command", ack_wait_sec=ACK_WAIT_SEC, node_rank=host))
        if events:
            consumers.append(
                Consumer(app.service, "event", events, ack_wait_sec=ACK_WAIT_SEC, node_rank=host)
            )
        return consumers

    async def consume(self, consumer: Consumer) -> None:
        """Handle a consumer's messages, one after the other."""
        async with contextlib.aclosing(self._bus.subscribe(consumer)) as deliveries:
            async for delivery in deliveries:
                await self._settle(delivery)

    async def heartbeats(self) -> None:
        """Say regularly that this process lives and what it works on.

        While it is connected, a file in the state directory is touched as well, for health checks: its age is
        how long ago all this was true.
        """
        alive = self._settings.state_dir / f"{self._app.service}.alive"
        while True:
            jobs = self._app.jobs.running if self._app.jobs is not None else []
            working = list(dict.fromkeys((*self._handling, *jobs, *self._app.working_on())))
            for run_id in {_run_of(key) for key in working} or {NO_RUN}:
                await self._bus.publish(
                    Heartbeat(
                        run_id=run_id,
                        service=self._app.service,
                        pid=os.getpid(),
                        host=socket.gethostname(),
                        node_rank=self._app.node_rank,
                        working_on=[key for key in working if _run_of(key) == run_id],
                    )
                )
            if self._bus.connected:
                with contextlib.suppress(OSError):  # then the health check fails, as it should
                    alive.touch()
            await asyncio.sleep(self._settings.heartbeat_sec)

    def _handler(self, cls: type[Message]) -> Handler[Any, D] | None:
        return next((self._app.handlers[base] for base in cls.__mro__ if base in self._app.handlers), None)

    async def _settle(self, delivery: Delivery) -> None:
        if delivery.deliveries > MAX_DELIVERIES:
            await self._bury(
                delivery, f"delivered {MAX_DELIVERIES} times and never settled: it ends its handler"
            )
            return
        try:
            await self._handle(delivery)
            await delivery.ack()
        except asyncio.CancelledError:
            with contextlib.suppress(BusError):  # without a connection it comes again after the ack wait
                await delivery.nak()
            raise
        except (Reject, MessageError) as error:
            await self._bury(delivery, str(error))
        except Retry as error:
            log.info("a message will come again", subject=delivery.subject, reason=str(error))
            await self._again(delivery, error.delay_sec, str(error))
        except Exception as error:
            log.exception("a handler failed", subject=delivery.subject, deliveries=delivery.deliveries)
            delay = FIRST_BACKOFF_SEC * 4 ** (delivery.deliveries - 1)
            await self._again(delivery, delay, f"{type(error).__name__}: {error}")

    async def _handle(self, delivery: Delivery) -> None:
        message = delivery.message()
        handler = self._handler(type(message))
        if handler is None:
            raise Reject(f"{self._app.service} has no handler for {message.name}")
        with logs.bound(message):
            log.debug("handling", message=message.id)
            if command := isinstance(message, Command):
                self._handling.append(message.id)
            try:
                async with _kept_alive(delivery):
                    for answer in await handler(message, self._app.deps):
                        await self._bus.publish(answer)
            finally:
                if command:  # an event may be handled beside it
                    self._handling.remove(message.id)

    async def _again(self, delivery: Delivery, delay_sec: float, reason: str) -> None:
        if delivery.deliveries >= MAX_DELIVERIES:
            await self._bury(delivery, f"given up after {MAX_DELIVERIES} deliveries: {reason}")
        else:
            await delivery.nak(delay_sec)

    async def _bury(self, delivery: Delivery, reason: str) -> None:
        envelope = Envelope(delivery.subject, delivery.data, delivery.headers)
        letter = dead(envelope, self._app.service, reason, delivery.deliveries)
        log.error("a message is a dead letter", subject=delivery.subject, reason=letter.reason)
        await self._bus.dead_letter(letter)
        await delivery.term(letter.reason)


def _run_of(key: str) -> str:
    """The run in a command's id; none of them in a key that is no command's id."""
    run_id = key.partition("/")[0]
    return run_id if RUN_ID.fullmatch(run_id) else NO_RUN


@contextlib.asynccontextmanager
async def _kept_alive(delivery: Delivery) -> AsyncIterator[None]:
    """Tell the server that the message is in work for as long as the block runs."""

    async def keep() -> None:
        while True:
            await asyncio.sleep(ACK_WAIT_SEC / 3)
            await delivery.in_progress()

    task = asyncio.create_task(keep())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()  # raises what kept it from keeping the message
