"""The monitor over the in-memory bus, with GPUs and a clock of our own."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.monitor.core.chunks import Chunks
from services.monitor.core.gpu import GpuReading
from services.monitor.files import append_sample, read_samples
from services.monitor.handlers import HANDLERS, chunk_done, chunk_started, note
from services.monitor.watch import Deps, check_freshness, read_gpus, watch_gpus, watch_progress
from shared.bundle import Bundle
from shared.bus.memory import MemoryBus
from shared.errors import GpuError
from shared.events import (
    AlertRaised,
    ArtifactEvidence,
    ChunkDone,
    ChunkStarted,
    GpuEvidence,
    GpuSample,
    Heartbeat,
    Message,
    RunStarted,
)
from shared.service import App, Runs, serve
from shared.settings import Settings
from shared.sheets import sheet_path, write_sheet
from tests.messages import progress, run_spec

RUN = "20260101_000000"
NAME = "2026_01_01_00_00_00_pong"
Start = Callable[..., ChunkStarted]
Done = Callable[..., ChunkDone]


class FakeGpus:
    """GPUs with the utilizations they are given; a read may fail."""

    problem: str | None = None

    def __init__(self, *utilizations: float) -> None:
        self.utilizations, self.broken, self.asked = utilizations, False, list[int]()
        self.was_asked, self._loop = asyncio.Event(), asyncio.get_running_loop()

    def read(self, launcher_pid: int) -> list[GpuReading]:
        self.asked.append(launcher_pid)
        self._loop.call_soon_threadsafe(self.was_asked.set)
        if self.broken:
            raise GpuError("NVML: GPU is lost")
        return [
            GpuReading(
                index=index, utilization=percent, memory_bytes=1, memory_total_bytes=2, pids=[], ours=False
            )
            for index, percent in enumerate(self.utilizations)
        ]


class NoGpus:
    """A machine without a driver."""

    problem = "the driver is missing"

    def read(self, launcher_pid: int) -> list[GpuReading]:
        raise GpuError(self.problem)


class Clock:
    """A clock that stands until it is set."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path / RUN, NAME)


@pytest.fixture
async def bus(bundle: Bundle) -> MemoryBus:
    bus = MemoryBus("gatekeeper")
    policy = {"monitor": {"monitor_interval_sec": 5, "silence_sec": {"progress": 10, "gpu": 30}}}
    spec = run_spec(bundle.root, run_name=NAME, policy=policy)
    await bus.publish(RunStarted(run_id=RUN, spec=spec))
    return bus


Restart = Callable[..., Any]


@pytest.fixture
def restart(bus: MemoryBus) -> Restart:
    """Starts a monitor that knows what the log knows."""

    async def make(gpus: FakeGpus | None = None, clock: Clock | None = None) -> Deps:
        time = clock or Clock(1e9)
        return Deps(
            bus=bus,
            runs=Runs(bus, Settings()),
            chunks=Chunks().fold_all(await bus.events()),
            gpus=gpus if gpus is not None else NoGpus(),
            clock=time,
            since=time(),
        )

    return make


def leave_files(bundle: Bundle, done: Done, *, attempt: int = 1, **changes: Any) -> ChunkDone:
    """A history and a sheet as the trainer leaves them, and the `chunk_done` that names them."""
    history = bundle.history("dynamics", attempt)
    history.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{step},{1 - step / 20},{step}\n" for step in range(10))
    history.write_text("_step,train/loss,_runtime\n" + rows)
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3), dtype=np.uint8)
    sheet = sheet_path(bundle, "dynamics", 10)
    write_sheet(sheet, frames, frames[:, 1:])
    given = {"history": bundle.relative(history), "visualization": bundle.relative(sheet), "attempt": attempt}
    return done(**(given | changes))


async def begin(deps: Deps, event: ChunkStarted) -> None:
    await deps.bus.publish(event)
    assert await chunk_started(event, deps) == []


def of(messages: list[Message]) -> tuple[GpuEvidence, ArtifactEvidence]:
    gpu, artifacts = messages
    assert isinstance(gpu, GpuEvidence)
    assert isinstance(artifacts, ArtifactEvidence)
    return gpu, artifacts


async def test_a_healthy_chunk_on_the_cpu(
    restart: Restart, bundle: Bundle, started: Start, done: Done
) -> None:
    deps = await restart()
    await begin(deps, started())
    gpu, artifacts = of(await chunk_done(leave_files(bundle, done), deps))
    assert (gpu.evidence, gpu.cpu_seconds, gpu.dual_gpu_ok) == ("cpu_ranks", [2.5, 2.4], None)
    assert artifacts.history is not None
    assert (artifacts.history.rows, artifacts.history.covered_steps) == (10, 10)
    assert artifacts.history.frames_per_sec == 48
    assert artifacts.visual is not None
    assert (artifacts.visual.step, artifacts.visual.fresh, artifacts.visual.frames) == (10, True, 6)
    assert (artifacts.visual.contrast, artifacts.visual.edges) == (1, 1)
    assert (artifacts.history_problem, artifacts.visual_problem) == (None, None)


async def test_masks_on_a_dynamics_sheet_are_no_edges(
    restart: Restart, bundle: Bundle, started: Start, done: Done
) -> None:
    deps = await restart()
    await begin(deps, started())
    end = leave_files(bundle, done)
    frames = np.full((2, 4, 16, 16, 3), 220, dtype=np.uint8)
    frames[:, :, 12:, :8] = 20
    covered = frames.copy()
    covered[:, -1, :8] = 128
    write_sheet(sheet_path(bundle, "dynamics", 10), covered, frames)
    _, artifacts = of(await chunk_done(end, deps))
    assert artifacts.visual is not None
    assert artifacts.visual.edges == 1


async def test_what_cannot_be_measured_is_a_problem_not_an_error(
    restart: Restart, bundle: Bundle, started: Start, done: Done
) -> None:
    deps = await restart()
    await begin(deps, started())
    end = leave_files(bundle, done)
    bundle.history("dynamics", 1).write_text("rubbish")
    sheet_path(bundle, "dynamics", 10).write_bytes(b"rubbish")
    _, artifacts = of(await chunk_done(end, deps))
    assert (artifacts.history, artifacts.visual) == (None, None)
    assert "no rows" in str(artifacts.history_problem) or "lacks" in str(artifacts.history_problem)
    assert "cannot be read" in str(artifacts.visual_problem)


async def test_a_chunk_that_left_nothing(restart: Restart, started: Start, done: Done) -> None:
    deps = await restart()
    await begin(deps, started())
    _, artifacts = of(await chunk_done(done(reason="oom"), deps))
    assert artifacts.history_problem == "the chunk left no history"
    assert artifacts.visual_problem == "the chunk left no visualization"


async def test_a_sheet_beyond_the_start_is_fresh_though_the_clock_was_set_back(
    restart: Restart, bundle: Bundle, started: Start, done: Done
) -> None:
    deps = await restart()
    end = leave_files(bundle, done)
    os.utime(sheet_path(bundle, "dynamics", 10), (1000, 1000))
    await begin(deps, started())
    _, artifacts = of(await chunk_done(end, deps))
    assert artifacts.visual is not None
    assert artifacts.visual.fresh


async def test_a_sheet_of_the_chunks_start_is_not_fresh(
    restart: Restart, bundle: Bundle, started: Start, done: Done
) -> None:
    deps = await restart()
    await begin(deps, started(start_step=10, target_step=20))
    end = leave_files(bundle, done, start_step=10, target_step=20, end_step=12)
    _, artifacts = of(await chunk_done(end, deps))
    assert artifacts.visual is not None
    assert not artifacts.visual.fresh
    assert artifacts.history is not None
    assert artifacts.history.covered_steps == 0


async def test_both_gpus_are_sampled_and_told(
    restart: Restart, bundle: Bundle, bus: MemoryBus, started: Start, done: Done
) -> None:
    gpus, clock = FakeGpus(90, 80), Clock(0)
    deps = await restart(gpus, clock)
    await begin(deps, started(device="cuda", launcher_pid=77))
    (chunk,) = deps.chunks.running()
    told = asyncio.create_task(anext(bus.follow(("telemetry",))))
    await asyncio.sleep(0)
    clock.now = chunk.started + 1
    await read_gpus(deps, chunk)
    record = await told
    assert isinstance(record.message, GpuSample)
    assert (record.message.index, record.message.utilization) == (0, 90)
    clock.now = chunk.started + 5
    gpu, _ = of(await chunk_done(done(device="cuda"), deps))
    assert (gpu.evidence, gpu.dual_gpu_ok, gpu.samples) == ("nvml", True, 2), "the end is sampled too"
    assert gpu.file == "Logs/gpu/dynamics_attempt_0001.jsonl"
    assert gpus.asked == [77, 77]


async def test_the_window_is_sampled_while_the_chunk_runs_and_not_after(
    restart: Restart, bundle: Bundle, started: Start, done: Done
) -> None:
    gpus = FakeGpus(90, 80)
    deps = await restart(gpus)
    sampling = asyncio.create_task(watch_gpus(deps))
    await asyncio.sleep(0)  # it waits for a chunk
    await begin(deps, started(device="cuda"))
    await gpus.was_asked.wait()
    await chunk_done(done(device="cuda"), deps)
    asked = len(gpus.asked)
    deps.wake.set()
    await asyncio.sleep(0.05)
    assert len(gpus.asked) == asked
    sampling.cancel()


async def test_a_lost_gpu_is_a_gap_and_ends_nothing(
    restart: Restart, bundle: Bundle, started: Start, done: Done
) -> None:
    gpus, clock = FakeGpus(90, 80), Clock(0)
    deps = await restart(gpus, clock)
    await begin(deps, started(device="cuda"))
    gpus.broken = True
    clock.now = deps.chunks.running()[0].started + 60
    gpu, _ = of(await chunk_done(done(device="cuda"), deps))
    assert (gpu.observed, gpu.samples, gpu.dual_gpu_ok) == (False, 0, False)


async def test_cuda_without_nvml_is_no_evidence_with_the_reason(
    restart: Restart, started: Start, done: Done
) -> None:
    deps = await restart(None)
    await begin(deps, started(device="cuda"))
    gpu, _ = of(await chunk_done(done(device="cuda"), deps))
    assert (gpu.evidence, gpu.dual_gpu_ok, gpu.problem) == ("none", None, "the driver is missing")


async def test_a_monitor_that_is_started_again_uses_the_samples_it_had_kept(
    restart: Restart, bundle: Bundle, bus: MemoryBus, started: Start, done: Done
) -> None:
    clock = Clock(0)
    first = await restart(FakeGpus(90, 80), clock)
    await begin(first, started(device="cuda"))
    (chunk,) = first.chunks.running()
    for second in (1, 6):
        clock.now = chunk.started + second
        await read_gpus(first, chunk)
    end = done(device="cuda")
    await bus.publish(end)
    again = await restart(FakeGpus(0, 0), clock)
    clock.now = chunk.started + 3600
    gpu, _ = of(await chunk_done(end, again))
    assert (gpu.samples, gpu.dual_gpu_ok, gpu.observed) == (2, True, True)


async def test_samples_after_a_torn_line_are_kept(bundle: Bundle, sample: Callable[..., Any]) -> None:
    path = bundle.gpu_samples("dynamics", 1)
    append_sample(path, sample(1, (1, True)))
    with path.open("a") as stream:
        stream.write('{"time": 2, "gp')
    append_sample(path, sample(3, (1, True)))
    assert [reading.time for reading in read_samples(path)] == [1, 3]


async def test_evidence_that_is_out_is_not_given_again(
    restart: Restart, bundle: Bundle, bus: MemoryBus, started: Start, done: Done
) -> None:
    deps = await restart()
    await begin(deps, started())
    end = leave_files(bundle, done)
    await bus.publish(end)
    gpu, artifacts = of(await chunk_done(end, deps))
    await bus.publish(gpu)
    assert await chunk_done(end, await restart()) == [artifacts], "only what is missing"
    await bus.publish(artifacts)
    assert await chunk_done(end, await restart()) == []
    for message in (gpu, artifacts):
        await note(message, deps)
    assert await chunk_done(end, deps) == []


async def test_a_chunk_the_process_never_saw_begin_is_found_in_the_log(
    restart: Restart, bundle: Bundle, bus: MemoryBus, started: Start, done: Done
) -> None:
    deps = await restart()
    await bus.publish(started())
    _, artifacts = of(await chunk_done(leave_files(bundle, done), deps))
    assert artifacts.history is not None
    assert artifacts.history.frames_per_sec == 48


async def test_a_monitor_that_is_far_behind_catches_up_without_reading_the_run_at_every_event(
    restart: Restart, bus: MemoryBus, started: Start, done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    deps = await restart()
    waiting = [event for attempt in (1, 2) for event in (started(attempt=attempt), done(attempt=attempt))]
    for event in (*waiting, started(attempt=3)):
        await bus.publish(event)

    def never(*_: object) -> None:
        raise AssertionError("the run was read")

    monkeypatch.setattr(Chunks, "fold_all", never)
    for event in (*waiting, started(attempt=3)):
        work = chunk_started if isinstance(event, ChunkStarted) else chunk_done
        assert await work(event, deps) == []
    assert [chunk.first.attempt for chunk in deps.chunks.running()] == [3]


async def test_a_late_start_finds_the_chunk_that_is_in_its_second_launch(
    restart: Restart, bus: MemoryBus, started: Start
) -> None:
    deps = await restart()
    for event in (started(attempt=1), started(attempt=2), started(attempt=2, launch=2)):
        await bus.publish(event)
    await chunk_started(started(attempt=1), deps)
    (chunk,) = deps.chunks.running()
    assert (chunk.first.launch, chunk.launch.launch) == (1, 2)


async def test_a_chunk_without_a_beginning_still_gets_evidence(
    restart: Restart, bundle: Bundle, done: Done
) -> None:
    gpu, artifacts = of(await chunk_done(leave_files(bundle, done), await restart()))
    assert gpu.evidence == "cpu_ranks"
    assert artifacts.visual is not None
    assert artifacts.visual.fresh


async def test_silent_channels_raise_one_alert_each(
    restart: Restart, bundle: Bundle, bus: MemoryBus, started: Start
) -> None:
    clock = Clock(0)
    deps = await restart(None, clock)
    await begin(deps, started())
    clock.now = deps.since = deps.chunks.running()[0].started
    await check_freshness(deps)
    clock.now += 11
    for _ in range(3):
        await check_freshness(deps)
    clock.now += 100_000
    await check_freshness(deps)
    alerts = [r.message for r in await bus.events(RUN) if isinstance(r.message, AlertRaised)]
    assert [alert.channel for alert in alerts] == ["progress", "history", "checkpoint", "visualization"]


async def test_another_host_whose_trainer_is_silent_is_an_alert_and_node_0s_heartbeat_is_no_sign_of_it(
    restart: Restart, bus: MemoryBus, started: Start
) -> None:
    clock = Clock(0)
    deps = await restart(None, clock)
    hosts = {"nnodes": 3, "rdzv_endpoint": "node0:29400"}
    await begin(deps, started(parameters=hosts))
    clock.now = deps.chunks.running()[0].started + 50
    watching = asyncio.create_task(watch_progress(deps))
    await asyncio.sleep(0)
    for rank in (0, 2):
        beat = Heartbeat(run_id=RUN, service="trainer", pid=1, host="x", node_rank=rank, working_on=[])
        await bus.publish(beat)
    await asyncio.sleep(0.01)
    watching.cancel()
    clock.now += 11
    await check_freshness(deps)
    alerts = [r.message for r in await bus.events(RUN) if isinstance(r.message, AlertRaised)]
    assert [each.channel for each in alerts if each.channel.startswith("node")] == ["node_1"]


async def test_a_restart_forgets_no_alert_and_invents_none(
    restart: Restart, bundle: Bundle, bus: MemoryBus, started: Start
) -> None:
    clock = Clock(0)
    deps = await restart(None, clock)
    await begin(deps, started())
    clock.now = deps.chunks.running()[0].started + 100
    again = await restart(None, clock)
    await check_freshness(again)
    assert not [r for r in await bus.events(RUN) if r.message.name == "alert_raised"], (
        "it has only just begun"
    )
    clock.now += 11
    await check_freshness(again)
    third = await restart(None, clock)
    clock.now += 11
    await check_freshness(third)
    assert len([r for r in await bus.events(RUN) if r.message.name == "alert_raised"]) == 1


async def test_progress_is_a_new_step_not_a_message(restart: Restart, bus: MemoryBus) -> None:
    clock = Clock(5)
    deps = await restart(None, clock)
    watching = asyncio.create_task(watch_progress(deps))
    await asyncio.sleep(0)
    for clock.now in (10, 20):
        await bus.publish(progress(RUN, step=3))
        await asyncio.sleep(0.01)
    assert deps.progress == {(RUN, "dynamics", 1): (3, 10)}
    watching.cancel()


async def test_served_over_the_bus_the_evidence_follows_the_chunk(
    restart: Restart, bundle: Bundle, bus: MemoryBus, started: Start, done: Done
) -> None:
    deps = await restart()
    app = App(service="monitor", deps=deps, handlers=HANDLERS)
    serving = asyncio.create_task(serve(app, bus, Settings()))
    await bus.publish(started())
    await bus.publish(leave_files(bundle, done))
    found: set[str] = set()
    async for record in bus.follow():
        found.add(record.message.name)
        if found >= {"gpu_evidence", "artifact_evidence"}:
            break
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    assert await bus.dead_letters() == []
