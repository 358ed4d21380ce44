"""What the monitor does between messages: reads GPUs, notes progress, notices silence."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import structlog
from pydantic import ValidationError

from services.monitor.config import Policy
from services.monitor.core.checkpoints import trouble_alerts, troubles
from services.monitor.core.chunks import Chunk, Chunks, Key
from services.monitor.core.freshness import alerts
from services.monitor.core.gpu import Sample, next_pause
from services.monitor.files import append_sample, changed, look_at_checkpoints, newest_checkpoint
from services.monitor.gpus import Gpus
from shared.bus.protocol import Bus
from shared.config import MOST_NODES, StageConfig
from shared.errors import BundleError, GpuError, Retry
from shared.events import GpuSample, Heartbeat, TrainProgress
from shared.service import Runs
from shared.sheets import newest_sheet

CHECK_SEC = 2.0
"""Between two looks at the channels."""
MOST_NOTED = 1000
"""Chunks and hosts whose news are kept before strangers' are dropped."""

TOLD = {"index", "utilization", "memory_bytes", "memory_total_bytes", "pids", "problem"}
"""What telemetry carries of a reading."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class Deps:
    """What handlers and background tasks share."""

    bus: Bus
    runs: Runs
    chunks: Chunks
    gpus: Gpus
    clock: Callable[[], float]
    """Unix seconds."""
    since: float
    """When this process began to watch."""
    progress: dict[Key, tuple[int, float]] = field(default_factory=dict)
    """Chunk -> its newest step, and when that was told."""
    nodes: dict[int, float] = field(default_factory=dict)
    """Node rank -> when the trainer there was heard."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """A chunk began: read the GPUs now."""
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    unwatched: dict[Key, str] = field(default_factory=dict)
    """Chunk -> why it cannot be looked at, as was said in the log."""

    async def policy(self, run_id: str) -> Policy:
        """The run's policy for this service."""
        return Policy.recorded((await self.runs.spec(run_id)).policy.get("monitor", {}))


async def read_gpus(deps: Deps, chunk: Chunk) -> None:
    """Keep one reading of all GPUs for a chunk, and tell it."""
    run_id, stage, attempt = chunk.key
    bundle = await deps.runs.bundle(run_id)
    async with deps.reading:
        try:
            readings = await asyncio.to_thread(deps.gpus.read, chunk.launch.launcher_pid)
            append_sample(bundle.gpu_samples(stage, attempt), Sample(time=deps.clock(), gpus=readings))
        except (GpuError, OSError) as error:  # the missing reading shows as a gap, and as silence of `gpu`
            log.warning("no GPU reading", run_id=run_id, stage=stage, attempt=attempt, problem=str(error))
            return
    for gpu in readings:
        await deps.bus.publish(GpuSample(run_id=run_id, **gpu.model_dump(include=TOLD)))


async def watch_gpus(deps: Deps) -> None:
    """Read the GPUs as long as chunks run on them; for ever."""
    while True:
        pause: float | None = None
        for chunk in [chunk for chunk in deps.chunks.running() if chunk.first.device == "cuda"]:
            with _spared(deps, chunk):
                await read_gpus(deps, chunk)
                interval = (await deps.policy(chunk.first.run_id)).monitor_interval_sec
                wanted = next_pause(deps.clock() - chunk.launched, interval)
                pause = wanted if pause is None else min(pause, wanted)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await deps.wake.wait()
        deps.wake.clear()


async def watch_progress(deps: Deps) -> None:
    """Note when chunks told of a new step, and when trainers were heard; for ever."""
    async for record in deps.bus.follow(("telemetry",), names=(TrainProgress.name, Heartbeat.name)):
        message = record.message
        if isinstance(message, TrainProgress):
            key = (message.run_id, message.stage, message.attempt)
            if message.step != deps.progress.get(key, (None, 0.0))[0]:
                deps.progress[key] = (message.step, deps.clock())
        elif isinstance(message, Heartbeat) and message.service == "trainer":
            deps.nodes[message.node_rank] = deps.clock()


async def watch_freshness(deps: Deps) -> None:
    """Raise an alert for every channel that falls silent and for checkpoints in trouble; for ever."""
    while True:
        await check_freshness(deps)
        await asyncio.sleep(CHECK_SEC)


async def check_freshness(deps: Deps) -> None:
    """Look at all channels of the running chunks once."""
    running = deps.chunks.running()
    _forget(deps, running)
    for chunk in running:
        with _spared(deps, chunk):
            await _check(deps, chunk)


async def _check(deps: Deps, chunk: Chunk) -> None:
    limits = (await deps.policy(chunk.first.run_id)).silence_sec.model_dump()
    signs = await _last_signs(deps, chunk)
    hosts = {f"node_{rank}": deps.nodes.get(rank) for rank in range(1, chunk.nnodes)}
    limits |= dict.fromkeys(hosts, limits["node"])
    silent = alerts(chunk, signs | hosts, limits, deps.clock())
    for alert in [*silent, *trouble_alerts(chunk, await _troubles(deps, chunk))]:
        await deps.bus.publish(alert)
        deps.chunks.fold(alert, deps.clock())
        log.warning(
            "alert", run_id=alert.run_id, stage=alert.stage, attempt=alert.attempt, channel=alert.channel,
            detail=alert.detail,
        )  # fmt: skip


@contextlib.contextmanager
def _spared(deps: Deps, chunk: Chunk) -> Iterator[None]:
    """A chunk that nobody can look at, of a run unknown or unusable, leaves the others watched; said once."""
    try:
        yield
    except (Retry, BundleError, ValidationError, OSError) as error:
        if deps.unwatched.get(chunk.key) != str(error):
            run_id, stage, attempt = chunk.key
            deps.unwatched[chunk.key] = str(error)
            log.warning("not watched", run_id=run_id, stage=stage, attempt=attempt, problem=str(error))


def _forget(deps: Deps, running: Sequence[Chunk]) -> None:
    """Let go of chunks that are over; and of chunks and hosts that never were, which telemetry may name."""
    known = {chunk.key for chunk in running}
    deps.unwatched = {key: told for key, told in deps.unwatched.items() if key in known}
    if len(deps.progress) + len(deps.nodes) > MOST_NOTED:
        deps.progress = {key: told for key, told in deps.progress.items() if key in known}
        deps.nodes = {rank: heard for rank, heard in deps.nodes.items() if rank <= MOST_NODES}


async def _last_signs(deps: Deps, chunk: Chunk) -> dict[str, float | None]:
    run_id, stage, attempt = chunk.key
    bundle = await deps.runs.bundle(run_id)
    signs = {
        "progress": _last_progress(deps, chunk),
        "history": changed(bundle.history(stage, attempt)),
        "checkpoint": changed(newest_checkpoint(bundle.checkpoints(stage))),
        "visualization": changed(newest_sheet(bundle.visualizations(stage))),
    }
    if chunk.first.device == "cuda" and deps.gpus.problem is None:
        signs["gpu"] = changed(bundle.gpu_samples(stage, attempt))
    return signs


async def _troubles(deps: Deps, chunk: Chunk) -> dict[str, str]:
    """What is wrong with the checkpoints of a running chunk's stage."""
    plan = chunk.first.plan
    bundle = await deps.runs.bundle(chunk.first.run_id)
    step, _ = deps.progress.get(chunk.key, (plan.start_step, 0.0))
    return troubles(
        look_at_checkpoints(bundle.checkpoints(plan.stage), deps.clock()),
        start=plan.start_step,
        step=step,
        interval=StageConfig.recorded(plan.parameters).log_interval,
    )


def _last_progress(deps: Deps, chunk: Chunk) -> float | None:
    """Telemetry is not kept: what was told before this process watched counts as told when it began to."""
    if chunk.key in deps.progress:
        return deps.progress[chunk.key][1]
    return None if "progress" in chunk.alerted else deps.since
