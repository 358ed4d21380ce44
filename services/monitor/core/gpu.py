"""From GPU readings to `gpu_evidence`: which GPUs worked, by what that was decided, and what went unseen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from services.monitor.config import Policy
from shared.events import ChunkDone, GpuEvidence, GpuSummary, Value

GAP_INTERVALS = 3.0
"""A pause between readings longer than this many intervals is a gap."""
EARLY_DENSITY = 4.0
"""Readings come this often within a chunk's age until the interval is reached: short chunks are seen too."""
SHORTEST_PAUSE_SEC = 0.25


class GpuReading(Value):
    """One GPU at one moment."""

    index: int
    utilization: float | None
    """Percent; none where the driver does not say."""
    memory_bytes: int
    memory_total_bytes: int
    pids: list[int]
    """Processes on it, as far as the driver shows them."""
    ours: bool
    """One of them belongs to the launcher's process tree."""


class Sample(Value):
    """All GPUs at one moment; a line of the samples file."""

    time: float
    """Unix seconds."""
    gpus: list[GpuReading]


def next_pause(age_sec: float, interval_sec: float) -> float:
    """Seconds until the next reading of a chunk that began `age_sec` ago."""
    return min(interval_sec, max(SHORTEST_PAUSE_SEC, age_sec / EARLY_DENSITY))


def cpu_evidence(done: ChunkDone) -> GpuEvidence:
    """The evidence of a chunk that ran on the CPU: what each rank worked."""
    return GpuEvidence(
        run_id=done.run_id,
        stage=done.stage,
        attempt=done.attempt,
        evidence="cpu_ranks",
        dual_gpu_ok=None,
        cpu_seconds=done.cpu_seconds,
    )


def no_evidence(done: ChunkDone, problem: str) -> GpuEvidence:
    """The evidence of a chunk on CUDA whose GPUs nobody can read."""
    return GpuEvidence(
        run_id=done.run_id,
        stage=done.stage,
        attempt=done.attempt,
        evidence="none",
        dual_gpu_ok=None,
        cpu_seconds=done.cpu_seconds,
        problem=problem,
    )


def nvml_evidence(
    done: ChunkDone,
    samples: Sequence[Sample],
    policy: Policy,
    *,
    started: float,
    ended: float,
    file: str | None,
) -> GpuEvidence:
    """The evidence of a chunk on CUDA.

    Args:
        done: The chunk.
        samples: Readings in order of time.
        policy: Threshold, required samples, interval.
        started: Unix time of the chunk's first `chunk_started`.
        ended: Unix time of its `chunk_done`.
        file: The samples' file, relative to the bundle.
    """
    indices = sorted({gpu.index for sample in samples for gpu in sample.gpus})
    gpus = [_summary([g for s in samples for g in s.gpus if g.index == index], policy) for index in indices]
    used = [gpu for gpu in gpus if gpu.active_samples >= policy.gpu_required_samples]
    util_ok = len(used) >= 2
    process_ok = any(sum(gpu.ours for gpu in sample.gpus) >= 2 for sample in samples)
    readable = bool(gpus) and all(gpu.max_utilization is not None for gpu in gpus)
    dual_gpu_ok = util_ok if readable else process_ok
    gap = _longest_gap([started, *(sample.time for sample in samples), ended])
    unseen = not samples or gap > GAP_INTERVALS * policy.monitor_interval_sec
    wanted = done.world_size >= 2
    observed = dual_gpu_ok or not unseen or not wanted
    return GpuEvidence(
        run_id=done.run_id,
        stage=done.stage,
        attempt=done.attempt,
        evidence="nvml",
        observed=observed,
        dual_gpu_ok=dual_gpu_ok,
        process_ok=process_ok,
        util_ok=util_ok if readable else None,
        decided_by="utilization" if readable else "processes",
        samples=len(samples),
        longest_gap_sec=round(gap, 3),
        gpus=gpus,
        cpu_seconds=done.cpu_seconds,
        problem=None
        if observed
        else f"{len(samples)} samples, {gap:.0f} s without any: the monitor was away",
        file=file,
    )


def _summary(readings: Sequence[GpuReading], policy: Policy) -> GpuSummary:
    known = [reading.utilization for reading in readings if reading.utilization is not None]
    return GpuSummary(
        index=readings[0].index,
        samples=len(readings),
        active_samples=sum(value >= policy.gpu_util_threshold for value in known),
        max_utilization=max(known, default=None),
        mean_utilization=round(sum(known) / len(known), 2) if known else None,
        max_memory_bytes=max(reading.memory_bytes for reading in readings),
        ours=any(reading.ours for reading in readings),
    )


def _longest_gap(times: Sequence[float]) -> float:
    ordered = sorted(times)
    return max((later - earlier for earlier, later in pairwise(ordered)), default=0.0)
