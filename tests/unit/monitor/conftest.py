"""Chunks and readings for the monitor's tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from services.monitor.core.gpu import GpuReading, Sample
from shared.events import ChunkDone, ChunkPlan, ChunkStarted, Schedule

RUN = "20260101_000000"


@pytest.fixture
def started() -> Callable[..., ChunkStarted]:
    """Makes `chunk_started` events."""

    def make(**changes: Any) -> ChunkStarted:
        stage, attempt = changes.pop("stage", "dynamics"), changes.pop("attempt", 1)
        knobs = {"batch_size_per_gpu": 2, "gradient_accumulation_steps": 3, "context_length": 4}
        plan = ChunkPlan(
            stage=stage,
            attempt=attempt,
            start_step=changes.pop("start_step", 0),
            target_step=changes.pop("target_step", 10),
            schedule=Schedule(peak=1e-3, start_step=0, end_step=20),
            parameters=knobs | changes.pop("parameters", {}),
        )
        given = {"launcher_pid": 42, "host": "here", "device": "cpu", "world_size": 2} | changes
        return ChunkStarted(run_id=given.pop("run_id", RUN), stage=stage, attempt=attempt, plan=plan, **given)

    return make


@pytest.fixture
def done() -> Callable[..., ChunkDone]:
    """Makes `chunk_done` events."""

    def make(**changes: Any) -> ChunkDone:
        given: dict[str, Any] = {
            "run_id": RUN,
            "stage": "dynamics",
            "attempt": 1,
            "reason": "completed",
            "start_step": 0,
            "end_step": 10,
            "target_step": 10,
            "launch": 1,
            "launcher_pid": 42,
            "device": "cpu",
            "world_size": 2,
            "checkpoints": [],
            "seconds": 3.0,
            "cpu_seconds": [2.5, 2.4],
        }
        return ChunkDone(**(given | changes))

    return make


@pytest.fixture
def sample() -> Callable[..., Sample]:
    """Makes readings: `sample(time, (utilization, ours), ...)`, one pair per GPU."""

    def make(time: float, *gpus: tuple[float | None, bool]) -> Sample:
        return Sample(
            time=time,
            gpus=[
                GpuReading(
                    index=index, utilization=percent, memory_bytes=1000 + index, memory_total_bytes=5000,
                    pids=[42] if ours else [7], ours=ours,
                )
                for index, (percent, ours) in enumerate(gpus)
            ],
        )  # fmt: skip

    return make
