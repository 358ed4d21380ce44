"""Who makes the load beside the tape: the decided run's trainer, the readings, the outside subscribers."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats

from benchmarks.load.tape import KEPT, spec
from services.gatekeeper.core.requests import answer
from services.gatekeeper.core.state import RunState
from shared.bus.jetstream import JetStreamBus
from shared.bus.protocol import Consumer
from shared.bus.wire import encode
from shared.events import (
    ChunkCommand,
    GpuSample,
    Heartbeat,
    Message,
    OperatorRequested,
    StartRun,
    TrainProgress,
)
from tests.unit.gatekeeper.story import HEALTHY, artifact_evidence, chunk_done, chunk_started, gpu_evidence

LIVE = "20261121_000000"
"""The run whose gates the gatekeeper decides."""
DECIDED_SEC = 1.0
"""Between two of its gates, at least."""
BEAT_EVERY = 100
"""One reading in so many is a heartbeat."""
LATE_SEC = 1.0
"""Readings that could not be sent for so long are left out: that the script is slow is no load."""

processes = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class Trainer:
    """Trainer and monitor of the decided run, and what they saw."""

    latencies: list[float] = field(default_factory=list)
    """Seconds from the last evidence of a gate to the next command."""
    done: list[int] = field(default_factory=list)
    """Attempts whose chunk has ended, each with all its evidence out."""
    again: int = 0
    """Commands that came for an attempt that had one."""

    async def ask(self, bus: JetStreamBus, bundle: Path) -> None:
        """Have the run started, as noted by a gatekeeper before all others: it is first in the queue."""
        bundle.mkdir(parents=True)
        wish = StartRun(run_id=LIVE, request_id="load", spec=spec(bundle, 10_000_000))
        noted = answer(RunState(LIVE), wish)
        assert isinstance(noted, OperatorRequested)
        await bus.append(noted, after=0)

    async def play(self, url: str, until: float) -> None:
        """Take commands and answer them until the time is over; the last chunk goes on."""
        bus = await JetStreamBus.connect(url, source="trainer", wait_sec=30)
        lineage: dict[int, bool] = {}
        attempts: set[int] = set()
        said: float | None = None
        async with contextlib.aclosing(bus.subscribe(Consumer("trainer", "command"))) as commands:
            async for delivery in commands:
                came = time.perf_counter()
                command = delivery.message()
                await delivery.ack()
                if command.run_id != LIVE or not isinstance(command, ChunkCommand):
                    continue  # of a played run, between its decision and its next chunk on the tape
                plan = command.plan
                if plan.attempt in attempts:
                    self.again += 1
                    continue
                attempts.add(plan.attempt)
                if said is not None:
                    self.latencies.append(came - said)
                await bus.publish(chunk_started(plan, HEALTHY, LIVE))
                if time.monotonic() > until:
                    break
                await asyncio.sleep(DECIDED_SEC)
                lineage = dict([*lineage.items(), (plan.target_step, True)][-KEPT:])
                await bus.publish(gpu_evidence(plan, HEALTHY, LIVE))
                await bus.publish(artifact_evidence(plan, HEALTHY, LIVE))  # before the monitor's own
                said = time.perf_counter()
                await bus.publish(chunk_done(plan, HEALTHY, plan.target_step, lineage, LIVE))
                self.done.append(plan.attempt)
        await bus.close()


@contextlib.contextmanager
def readings(url: str, runs: Sequence[str], per_sec: int) -> Iterator[Any]:
    """Telemetry of all runs: progress and GPUs, and some heartbeats; yields how many were sent."""
    yield from _aside(_read, url, list(runs), per_sec)


@contextlib.contextmanager
def crowd(port: int, number: int) -> Iterator[Any]:
    """Outside programs that subscribe to everything; yields how many messages all of them got."""
    yield from _aside(_listen, port, number)


def _aside(work: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """Work in a process of its own, with a number that it counts in."""
    count = processes.Value("q", 0, lock=False)
    running = processes.Process(target=work, args=(*arguments, count), daemon=True)
    running.start()
    try:
        yield count
    finally:
        running.terminate()
        running.join()


def _read(url: str, runs: list[str], per_sec: int, sent: Any) -> None:
    asyncio.run(_readings(url, runs, per_sec, sent))


async def _readings(url: str, runs: list[str], per_sec: int, sent: Any) -> None:
    kinds: list[Callable[[str], Message]] = [
        lambda run_id: TrainProgress(
            run_id=run_id, stage="video_tokenizer", attempt=1, step=int(time.time()), target_step=10**10,
            stage_target=10**10, loss=0.1, learning_rate=1e-3, frames_per_sec=100.0, eta_sec=1.0,
        ),
        lambda run_id: GpuSample(
            run_id=run_id, index=0, utilization=90, memory_bytes=10**10, memory_total_bytes=10**11, pids=[1]
        ),
        lambda run_id: GpuSample(
            run_id=run_id, index=1, utilization=90, memory_bytes=10**10, memory_total_bytes=10**11, pids=[2]
        ),
    ]  # fmt: skip
    beat = Heartbeat(run_id=LIVE, service="trainer", pid=1, host="played", working_on=[])
    client = await nats.connect(url)
    began, number = time.monotonic(), 0
    while True:
        due = int((time.monotonic() - began) * per_sec)
        number = max(number, due - int(per_sec * LATE_SEC))
        while number < due:
            reading = kinds[number % len(kinds)](runs[number // len(kinds) % len(runs)])
            message = reading if number % BEAT_EVERY else beat
            each = encode(message, source="/worldloop/script", time=datetime.now(UTC))
            await client.publish(each.subject, each.data, headers=each.headers)
            number += 1
            sent.value += 1
        await asyncio.sleep(0.01)


def _listen(port: int, number: int, heard: Any) -> None:
    """Be the outside programs, at the least cost: messages are counted, not read."""
    selector = selectors.DefaultSelector()
    for _ in range(number):
        _subscribe(selector, port)
    while True:
        for key, _ in selector.select():
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            data = connection.recv(1 << 20)
            heard.value += data.count(b"HMSG ")
            if not data:  # the server lets go of who does not keep up; they come again
                selector.unregister(connection)
                connection.close()
                _subscribe(selector, port)
            elif b"PING\r\n" in data:
                connection.sendall(b"PONG\r\n")


def _subscribe(selector: selectors.BaseSelector, port: int) -> None:
    connection = socket.create_connection(("127.0.0.1", port))
    options = b'{"verbose":false,"headers":true,"lang":"script","version":"1"}'
    connection.sendall(b"CONNECT " + options + b"\r\nSUB worldloop.> 1\r\n")
    selector.register(connection, selectors.EVENT_READ)
