"""The services under load: 200 runs at once, a day of their events in the stream, 1,000 readings a second.

    python -m benchmarks.load [--minutes 6] [--runs 200] [--hours 24] [--readings 1000] [--outsiders 50]

A nats-server with fsync on every write gets `hours` of events of `runs` runs, each with a gate every twenty
minutes, as if the services had handled them. Then gatekeeper, monitor, reporter, inference and a trainer
start (the trainer is a second host's: the script is the first's). Then all at once, for so many minutes:
every run but one goes on as recorded, with a gate every minute; the one that is left has its gates decided by
the gatekeeper, one a second at most, while the script plays its trainer and monitor; readings come, and that
many outside programs subscribe to everything. What is measured: the time from the last evidence of a gate to
the next command, and the memory of each service every five seconds.

Last line: one JSON object. `decision_*_ms`; per service `ready_s` (from its start to its first heartbeat),
`peak_mb` of resident memory, `begin_mb` and `end_mb` (medians over the first and the last tenth of the load),
`growth_mb_h` (slope of the line through the second half), `cpu` (cores in use).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import numpy as np
import psutil

from services import nats_server
from services.schemas.traffic import consumers
from shared.bus import streams
from shared.bus.deliveries import durable
from shared.bus.jetstream import JetStreamBus
from shared.bus.protocol import Consumer
from shared.bus.wire import Envelope, encode
from shared.events import (
    ChunkCommand,
    GpuSample,
    Heartbeat,
    RunSpec,
    Service,
    StartRun,
    TrainProgress,
)
from shared.service import ACK_WAIT_SEC
from tests.unit.gatekeeper.story import (
    HEALTHY,
    RUN_ID,
    Story,
    artifact_evidence,
    chunk_done,
    chunk_started,
    gpu_evidence,
    only,
)

ROOT = Path(__file__).parents[1]
SERVICES: tuple[Service, ...] = ("gatekeeper", "monitor", "reporter", "inference", "trainer")
GATES_PER_HOUR = 3
CHUNK = 10
LOOK_SEC = 5.0
GATE_SEC = 60.0
"""Between two gates of a recorded run."""
DECIDED_SEC = 1.0
"""Between two gates of the run that is decided here, at least."""
IN_FLIGHT = 500
BEAT_EVERY = 100
LEAVING = ("chunk_done", "run_finished", "run_paused")
"""What the trainer of a second host hears of."""
MEGABYTE = 1 << 20


def main() -> None:
    """Measure, print the table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6.0, help="of load")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--hours", type=float, default=24.0, help="of events in the stream before")
    parser.add_argument("--readings", type=int, default=1000, help="telemetry messages a second")
    parser.add_argument("--outsiders", type=int, default=50, help="programs that subscribe to everything")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = asyncio.run(measure(Path(directory), arguments))
    print(f"{'service':<12}{'ready s':>9}{'begin MB':>10}{'end MB':>9}{'peak MB':>9}{'MB/h':>8}{'cores':>7}")
    for name, found in result["services"].items():
        print(
            f"{name:<12}{found['ready_s']:>9.1f}{found['begin_mb']:>10.0f}{found['end_mb']:>9.0f}"
            f"{found['peak_mb']:>9.0f}{found['growth_mb_h']:>8.0f}{found['cpu']:>7.2f}"
        )
    for name, value in result.items():
        if name != "services":
            print(f"{name:<24}{value:>12.3f}")
    print(json.dumps(result))


async def measure(directory: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole benchmark."""
    port = nats_server.free_port()
    url = f"nats://127.0.0.1:{port}"
    environment = os.environ | {
        "WORLDLOOP_NATS_URL": url,
        "WORLDLOOP_STATE_DIR": str(directory / "state"),
        "WORLDLOOP_CACHE_DIR": str(directory / "cache"),
        "WORLDLOOP_PAGE_PORT": "0",
        "WORLDLOOP_NODE_RANK": "1",
        "WORLDLOOP_LOG_LEVEL": "warning",
    }
    server = [str(nats_server.find()), "-c", str(nats_server.configure(directory, port))]
    with process(server, environment, directory / "server.log") as nats_process:
        bus = await JetStreamBus.connect(url, source="gatekeeper", wait_sec=30)
        runs = [f"{RUN_ID}_{number}" for number in range(1, arguments.runs)]
        day = int(arguments.hours * GATES_PER_HOUR)
        tape = Tape.recorded(directory, day + int(arguments.minutes * 60 / GATE_SEC) + 2)
        begun = time.monotonic()
        await decided_run(directory, bus)  # first in the queue: the others are never the gatekeeper's turn
        stored = await preload(url, tape, runs, day)
        await handled(url)
        print(f"{stored} events stored in {time.monotonic() - begun:.0f} s", flush=True)
        async with contextlib.AsyncExitStack() as stack:
            watched = {"nats-server": Watched(psutil.Process(nats_process.pid), 0.0)}
            for name in SERVICES:
                command = [sys.executable, "-m", f"services.{name}.main"]
                running = stack.enter_context(process(command, environment, directory / f"{name}.log"))
                ready = await heard(bus, name, running)
                watched[name] = Watched(psutil.Process(running.pid), ready)
                print(f"{name} is ready after {ready:.1f} s", flush=True)
            outsiders = stack.enter_context(crowd(port, arguments.outsiders))
            latencies = await load(url, tape, runs, day, watched, arguments)
            result: dict[str, Any] = {
                "services": {name: each.figures() for name, each in watched.items()},
                "decision_p50_ms": 1e3 * statistics.median(latencies),
                "decision_p99_ms": 1e3 * float(np.quantile(latencies, 0.99)),
                "decision_max_ms": 1e3 * max(latencies),
                "gates": len(latencies),
                "stored": stored,
                "heard_per_s": outsiders.value / (60 * arguments.minutes) / max(arguments.outsiders, 1),
            }
        await bus.close()
    return result


# --- the recorded runs ------------------------------------------------------------------------------------


@dataclass
class Tape:
    """The events of one run, to be played as those of many."""

    opening: list[Envelope]
    """Until the first chunk."""
    gates: list[list[Envelope]]
    """Of each gate: its chunk, the evidence, the decision."""

    @classmethod
    def recorded(cls, directory: Path, gates: int) -> Tape:
        """A healthy run of so many gates, and one more update to go."""
        story = Story(spec(directory / "runs" / RUN_ID, gates + 1)).start().settle()
        opening, found = len(story.log), list[int]()
        lineage: dict[int, bool] = {}
        for _ in range(gates):
            chunk = story.state.chunk
            assert chunk is not None
            plan = chunk.plan
            lineage = dict([*lineage.items(), (plan.target_step, True)][-5:])
            story.record(chunk_started(plan, HEALTHY)).record(
                chunk_done(plan, HEALTHY, plan.target_step, lineage)
            )
            story.measure(plan, HEALTHY).settle()
            found.append(len(story.log))
        sent = [encode(each.message, source="/worldloop/script", time=each.time) for each in story.log]
        marks = [opening, *found]
        return cls(sent[:opening], [sent[a:b] for a, b in itertools.pairwise(marks)])

    def of(self, run_id: str, envelopes: list[Envelope]) -> Iterator[Envelope]:
        """The same events, of another run."""
        old, new = RUN_ID.encode(), run_id.encode()
        for each in envelopes:
            headers = each.headers | {"ce-id": each.headers["ce-id"].replace(RUN_ID, run_id)}
            yield Envelope(each.subject.replace(RUN_ID, run_id), each.data.replace(old, new), headers)


def spec(bundle: Path, gates: int) -> RunSpec:
    """A run of one stage with a gate every `CHUNK` updates."""
    found = only("video_tokenizer", config={"video_tokenizer": {"n_updates": CHUNK * gates}})
    policy = {"gatekeeper": {"chunk": {"video_tokenizer": CHUNK}, "absolute_loss_from": 1.0}}
    return found.model_copy(update={"bundle": str(bundle), "policy": policy})


async def preload(url: str, tape: Tape, runs: list[str], gates: int) -> int:
    """Store the past of all runs as it came: gate by gate, one run after the other."""
    client = await nats.connect(url)
    js = client.jetstream(publish_async_max_pending=IN_FLIGHT)
    for run_id in runs:
        Path(bundle_of(tape), run_id).mkdir(parents=True)
    stored = 0
    parts = [tape.opening, *tape.gates[:gates]]
    waiting: list[asyncio.Future[Any]] = []
    for part in parts:
        for run_id in runs:
            for each in tape.of(run_id, part):
                waiting.append(await store(js, each))
                stored += 1
        await asyncio.gather(*waiting)
        waiting.clear()
    await client.close()
    return stored


def bundle_of(tape: Tape) -> Path:
    """Where the bundles are."""
    opened = json.loads(tape.opening[0].data)
    return Path(opened["arguments"]["spec"]["bundle"]).parent


async def store(js: Any, each: Envelope) -> asyncio.Future[Any]:
    """Publish without waiting for the answer."""
    headers = each.headers | {"Nats-Msg-Id": each.headers["ce-id"]}
    found: asyncio.Future[Any] = await js.publish_async(each.subject, each.data, headers=headers)
    return found


# --- the run that is decided ------------------------------------------------------------------------------


LIVE = "20261121_000000"


async def decided_run(directory: Path, bus: JetStreamBus) -> None:
    """Ask for it."""
    bundle = directory / "runs" / LIVE
    bundle.mkdir(parents=True)
    await bus.publish(StartRun(run_id=LIVE, request_id="load", spec=spec(bundle, 1_000_000)))


async def gates(url: str, until: float) -> list[float]:
    """Be its trainer and its monitor; seconds from the last evidence to the next command, one per gate."""
    trainer = await JetStreamBus.connect(url, source="trainer", wait_sec=30)
    latencies: list[float] = []
    lineage: dict[int, bool] = {}
    said = 0.0
    async with contextlib.aclosing(trainer.subscribe(Consumer("trainer", "command"))) as commands:
        async for delivery in commands:
            if said:
                latencies.append(time.perf_counter() - said)
            command = delivery.message()
            assert isinstance(command, ChunkCommand)
            plan, run_id = command.plan, command.run_id
            await trainer.publish(chunk_started(plan, HEALTHY, run_id))
            await delivery.ack()
            if time.monotonic() > until:
                break
            await asyncio.sleep(DECIDED_SEC)
            lineage = dict([*lineage.items(), (plan.target_step, True)][-5:])
            await trainer.publish(gpu_evidence(plan, HEALTHY, run_id))
            await trainer.publish(artifact_evidence(plan, HEALTHY, run_id))  # before the monitor's own
            said = time.perf_counter()
            await trainer.publish(chunk_done(plan, HEALTHY, plan.target_step, lineage, run_id))
    await trainer.close()
    return latencies


# --- the load ---------------------------------------------------------------------------------------------


async def load(
    url: str,
    tape: Tape,
    runs: list[str],
    day: int,
    watched: dict[str, Watched],
    arguments: argparse.Namespace,
) -> list[float]:
    """Everything at once, until the time is over."""
    until = time.monotonic() + 60 * arguments.minutes
    deciding = asyncio.create_task(gates(url, until))
    others = [
        asyncio.create_task(play_on(url, tape, runs, day, until)),
        asyncio.create_task(readings(url, runs, arguments.readings, until)),
    ]
    while time.monotonic() < until:
        for each in watched.values():
            each.look()
        await asyncio.sleep(LOOK_SEC)
    await asyncio.gather(*others)
    return await deciding


async def play_on(url: str, tape: Tape, runs: list[str], day: int, until: float) -> None:
    """The recorded runs go on, evenly spread over the minute."""
    client = await nats.connect(url)
    js = client.jetstream(publish_async_max_pending=IN_FLIGHT)
    began, played = time.monotonic(), 0
    while time.monotonic() < until:
        due = int((time.monotonic() - began) * len(runs) / GATE_SEC)
        while played < due:
            gate, run = divmod(played, len(runs))
            for each in tape.of(runs[run], tape.gates[day + gate]):
                await (await store(js, each))
            played += 1
        await asyncio.sleep(0.05)
    await client.close()


async def readings(url: str, runs: list[str], per_sec: int, until: float) -> None:
    """Telemetry of all runs: progress and GPUs, and some heartbeats."""
    client = await nats.connect(url)
    kinds = [
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
    began, sent = time.monotonic(), 0
    while time.monotonic() < until:
        due = int((time.monotonic() - began) * per_sec)
        while sent < due:
            reading = kinds[sent % len(kinds)](runs[sent // len(kinds) % len(runs)])
            message = reading if sent % BEAT_EVERY else beat
            each = encode(message, source="/worldloop/script", time=datetime.now(UTC))
            await client.publish(each.subject, each.data, headers=each.headers)
            sent += 1
        await asyncio.sleep(0.01)
    await client.close()


@contextlib.contextmanager
def crowd(port: int, number: int) -> Iterator[Any]:
    """Outside programs that subscribe to everything; yields how many messages all of them got."""
    heard = multiprocessing.Value("q", 0)
    listening = multiprocessing.Process(target=listen, args=(port, number, heard), daemon=True)
    listening.start()
    try:
        yield heard
    finally:
        listening.terminate()
        listening.join()


def listen(port: int, number: int, heard: Any) -> None:
    """Be the outside programs, at the least cost: messages are counted, not read."""
    import selectors

    selector = selectors.DefaultSelector()
    for _ in range(number):
        connection = socket.create_connection(("127.0.0.1", port))
        options = b'{"verbose":false,"headers":true,"lang":"script","version":"1"}'
        connection.sendall(b"CONNECT " + options + b"\r\nSUB worldloop.> 1\r\n")
        selector.register(connection, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            data = connection.recv(1 << 20)
            heard.value += data.count(b"HMSG ")
            if b"PING\r\n" in data:
                connection.sendall(b"PONG\r\n")


# --- what is watched --------------------------------------------------------------------------------------


@dataclass
class Watched:
    """A process, and its memory over the time."""

    process: psutil.Process
    ready_s: float
    times: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Note its memory and the time it has used.

        Raises:
            psutil.NoSuchProcess: It has died.
        """
        used = self.process.cpu_times()
        self.times.append(time.monotonic())
        self.megabytes.append(self.process.memory_info().rss / MEGABYTE)
        self.cpu.append(used.user + used.system)

    def figures(self) -> dict[str, float]:
        """What the table tells."""
        tenth, half = max(1, len(self.times) // 10), len(self.times) // 2
        slope = np.polyfit(self.times[half:], self.megabytes[half:], 1)[0]
        with Path(f"/proc/{self.process.pid}/status").open() as lines:
            peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        return {
            "ready_s": self.ready_s,
            "begin_mb": statistics.median(self.megabytes[:tenth]),
            "end_mb": statistics.median(self.megabytes[-tenth:]),
            "peak_mb": peak / 1024,
            "growth_mb_h": 3600 * float(slope),
            "cpu": (self.cpu[-1] - self.cpu[0]) / (self.times[-1] - self.times[0]),
        }


async def heard(bus: JetStreamBus, service: Service, running: subprocess.Popen[bytes]) -> float:
    """Seconds until a service that has just been started sends its first heartbeat."""
    began = time.monotonic()
    async with contextlib.aclosing(bus.follow(("telemetry",))) as messages:
        async for each in messages:
            if isinstance(each.message, Heartbeat) and each.message.service == service:
                return time.monotonic() - began
            assert running.poll() is None, f"{service} has died"
    raise AssertionError


async def handled(url: str) -> None:
    """Have the services' durable consumers settle what is stored, as they would have in a day."""
    client = await nats.connect(url)
    js = client.jetstream()
    for consumer in [
        *consumers(),
        Consumer("trainer", "event", LEAVING, ack_wait_sec=ACK_WAIT_SEC, node_rank=1),
    ]:
        if consumer.kind == "event":
            info = await js.add_consumer(streams.EVENTS, durable(consumer))
            subscription = await js.pull_subscribe_bind(consumer.durable, stream=streams.EVENTS)
            left = info.num_pending or 0
            while left:
                for message in (found := await subscription.fetch(IN_FLIGHT)):
                    await message.ack()
                left -= len(found)
            await client.flush()
    await client.close()


@contextlib.contextmanager
def process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process for as long as the block runs."""
    with (
        log.open("ab") as output,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output) as running,
    ):
        try:
            yield running
        finally:
            running.terminate()
            running.wait(timeout=60)


if __name__ == "__main__":
    main()
