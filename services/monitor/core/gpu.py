"""From GPU readings to `gpu_evidence`: which GPUs worked, by what that was decided, and what went unseen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from services.monitor.config import Policy
from shared.events import ChunkDone, GpuEvidence, GpuSummary, Value

GAP_INTERVALS = 3.0
"""A pause between readings longer than this many intervals is a gap."""
EARLY_DENSITY = 4.0
"""Readings come this often within a chunk's age until the interval is reached: short chunks are seen too."""
SHORTEST_PAUSE_SEC = 0.25


class MigInstance(Value):
    """A part of a GPU that is partitioned (MIG)."""

    index: int
    memory_bytes: int
    memory_total_bytes: int
    pids: list[int]


class GpuReading(Value):
    """One GPU at one moment."""

    index: int
    name: str = ""
    utilization: float | None
    """Percent; none where the driver does not say."""
    memory_bytes: int
    """In use, 0 where the driver does not say; of a partitioned GPU that of its instances."""
    memory_total_bytes: int
    pids: list[int]
    """Processes on it, its instances included, as far as the driver shows them."""
    ours: bool
    """One of them belongs to the launcher's process tree."""
    instances: tuple[MigInstance, ...] = ()
    problem: str | None = None
    """What the driver could not say, and why."""
    lost: bool = False
    """It could say nothing about this GPU."""


class Sample(Value):
    """All GPUs at one moment; a line of the samples file."""

    time: float
    """Unix seconds."""
    gpus: list[GpuReading]


def next_pause(age_sec: float, interval_sec: float) -> float:
    """Seconds until the next reading of a chunk that began `age_sec` ago."""
    return min(interval_sec, max(SHORTEST_PAUSE_SEC, age_sec / EARLY_DENSITY))


@dataclass(frozen=True, slots=True)
class Activity:
    """Which GPUs worked."""

    gpus: list[GpuSummary]
    """Those that could be read at least once."""
    util_ok: bool | None
    """Two of them at work by their utilization; none where that is not readable."""
    process_ok: bool
    """The launcher's processes were on two of them at the same time."""
    lost: dict[int, str]
    """GPUs that could not be read at the end, and why."""

    @property
    def dual_gpu_ok(self) -> bool:
        """The answer: an idle second GPU with a process on it is not active."""
        return self.process_ok if self.util_ok is None else self.util_ok

    @property
    def decided_by(self) -> Literal["utilization", "processes"]:
        """What that rests on."""
        return "processes" if self.util_ok is None else "utilization"


def activity(samples: Sequence[Sample], policy: Policy) -> Activity:
    """Judge by readings whether two GPUs worked.

    Args:
        samples: In order of time.
        policy: Threshold and required samples.
    """
    read = [[gpu for gpu in sample.gpus if not gpu.lost] for sample in samples]
    indices = sorted({gpu.index for gpus in read for gpu in gpus})
    summaries = [
        _summary([g for gpus in read for g in gpus if g.index == index], policy) for index in indices
    ]
    readable = bool(summaries) and all(gpu.max_utilization is not None for gpu in summaries)
    used = [gpu for gpu in summaries if gpu.active_samples >= policy.gpu_required_samples]
    return Activity(
        gpus=summaries,
        util_ok=len(used) >= 2 if readable else None,
        process_ok=any(sum(gpu.ours for gpu in gpus) >= 2 for gpus in read),
        lost={gpu.index: gpu.problem or "" for gpu in samples[-1].gpus if gpu.lost} if samples else {},
    )


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
    found = activity(samples, policy)
    gap = _longest_gap([started, *(sample.time for sample in samples), ended])
    unseen = not samples or gap > GAP_INTERVALS * policy.monitor_interval_sec
    wanted = done.world_size >= 2
    observed = found.dual_gpu_ok or not unseen or not wanted
    problems = [] if observed else [f"{len(samples)} samples, {gap:.0f} s without any: the monitor was away"]
    problems += [f"GPU {index} could not be read: {text}" for index, text in found.lost.items()]
    return GpuEvidence(
        run_id=done.run_id,
        stage=done.stage,
        attempt=done.attempt,
        evidence="nvml",
        observed=observed,
        dual_gpu_ok=found.dual_gpu_ok,
        process_ok=found.process_ok,
        util_ok=found.util_ok,
        decided_by=found.decided_by,
        samples=len(samples),
        longest_gap_sec=round(gap, 3),
        gpus=found.gpus,
        cpu_seconds=done.cpu_seconds,
        problem="; ".join(problems) or None,
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
