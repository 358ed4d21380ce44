"""The dual-GPU gate end to end: a real monitor over a real nats-server, its GPUs played by the stub."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.monitor.files import read_samples
from shared.bundle import Bundle
from shared.bus.jetstream import JetStreamBus
from shared.events import (
    ChunkDone,
    ChunkPlan,
    ChunkStarted,
    GpuEvidence,
    Message,
    RunStarted,
    Schedule,
)
from tests.messages import run_spec
from tests.nvml.conftest import ROOT, Stub

RUN = "20260101_000000"
NAME = "2026_01_01_00_00_00_pong"
INTERVAL_SEC = 0.2
BUSY = (f"gpu 97 500 1024 {os.getpid()}", f"gpu 90 500 1024 {os.getpid()}")
IDLE = (f"gpu 97 500 1024 {os.getpid()}", f"gpu 0 500 1024 {os.getpid()}")


class Watched:
    """A run whose monitor watches the stub's GPUs; this process is the launcher."""

    def __init__(self, bus: JetStreamBus, bundle: Bundle) -> None:
        self.bus, self.bundle, self.attempt = bus, bundle, 0

    def chunk(self) -> dict[str, Any]:
        """What the events of the current chunk have in common."""
        return {
            "run_id": RUN, "stage": "dynamics", "attempt": self.attempt, "launcher_pid": os.getpid(),
            "device": "cuda", "world_size": 2,
        }  # fmt: skip

    async def begin(self, samples: int) -> None:
        """A chunk of two ranks starts and is sampled."""
        self.attempt += 1
        schedule = Schedule(peak=1e-3, start_step=0, end_step=20)
        plan = ChunkPlan(
            stage="dynamics",
            attempt=self.attempt,
            start_step=0,
            target_step=10,
            parameters={},
            schedule=schedule,
        )
        await self.bus.publish(ChunkStarted(**self.chunk(), plan=plan, host="here"))
        while len(read_samples(self.bundle.gpu_samples("dynamics", self.attempt))) < samples:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def end(self) -> GpuEvidence:
        """The chunk is over: what the monitor says about its GPUs."""
        done = ChunkDone(
            **self.chunk(), reason="completed", start_step=0, end_step=10, target_step=10, launch=1,
            checkpoints=[], seconds=1.0,
        )  # fmt: skip
        await self.bus.publish(done)
        evidence: GpuEvidence = await self.heard(GpuEvidence, attempt=self.attempt)
        return evidence

    async def heard(self, kind: type[Message], **wanted: Any) -> Any:
        """The first message of this kind and content."""
        async with contextlib.aclosing(self.bus.follow(("event", "telemetry"))) as messages:
            async for record in messages:
                if isinstance(record.message, kind) and wanted.items() <= record.message.model_dump().items():
                    return record.message
        raise AssertionError


@pytest.fixture
def monitor(stub: Stub, fresh_nats_server: Any, tmp_path: Path) -> Iterator[None]:
    places = {"WORLDLOOP_NATS_URL": fresh_nats_server.url, "WORLDLOOP_STATE_DIR": str(tmp_path / "state")}
    process = subprocess.Popen(
        [sys.executable, "-m", "services.monitor.main"], env=stub.env | places, cwd=ROOT
    )
    yield
    process.terminate()
    assert process.wait() == 0


@pytest.fixture
async def watched(monitor: None, fresh_nats_server: Any, tmp_path: Path) -> AsyncIterator[Watched]:
    bundle = Bundle(tmp_path / RUN, NAME)
    bundle.logs.mkdir(parents=True)
    policy = {"monitor": {"monitor_interval_sec": INTERVAL_SEC}}
    spec = run_spec(bundle.root, run_name=NAME, policy=policy)
    bus = await JetStreamBus.connect(fresh_nats_server.url, source="cli")
    await bus.publish(RunStarted(run_id=RUN, spec=spec))
    yield Watched(bus, bundle)
    await bus.close()


async def test_the_monitor_says_whether_both_gpus_worked_and_whether_it_could_see(
    watched: Watched, stub: Stub
) -> None:
    stub.play(*BUSY)
    await watched.begin(samples=2)
    both = await watched.end()
    assert (both.dual_gpu_ok, both.observed, both.decided_by) == (True, True, "utilization")
    assert (both.process_ok, [gpu.max_utilization for gpu in both.gpus]) == (True, [97, 90])

    stub.play(*IDLE)
    await watched.begin(samples=2)
    one = await watched.end()
    assert (one.dual_gpu_ok, one.util_ok, one.process_ok) == (False, False, True)

    stub.play(*BUSY, "fail * 15")
    await watched.begin(samples=0)
    unseen = await watched.end()
    assert (unseen.dual_gpu_ok, unseen.observed, unseen.samples) == (False, False, 0)
    assert "the monitor was away" in str(unseen.problem)

    stub.play(*BUSY, "fail * 15 1")
    await watched.begin(samples=2)
    lost = await watched.end()
    assert (lost.dual_gpu_ok, [gpu.index for gpu in lost.gpus]) == (False, [0])
    assert "GPU 1 could not be read: GPU is lost" in str(lost.problem)

    stub.play(*(f"{line} mig" for line in BUSY))
    await watched.begin(samples=1)
    parts = await watched.end()
    assert (parts.dual_gpu_ok, parts.util_ok, parts.decided_by) == (True, None, "processes")

    stub.play("fail nvmlInitWithFlags 9", "fail * 1")
    for _ in range(2):  # the driver goes away under the first, and is away during the second
        await watched.begin(samples=0)
        none = await watched.end()
    assert (none.evidence, none.dual_gpu_ok) == ("none", None)
    assert "Driver Not Loaded" in str(none.problem)

    stub.play(*BUSY)
    await watched.begin(samples=2)
    assert (await watched.end()).dual_gpu_ok, "the driver came back"
