"""Readings that may be lost."""

from __future__ import annotations

from typing import ClassVar

from shared.events.base import Service, Stage, Telemetry


class TrainProgress(Telemetry):
    """Where the current chunk is."""

    name: ClassVar[str] = "train_progress"
    stage: Stage
    attempt: int
    step: int
    target_step: int
    stage_target: int
    loss: float | None
    learning_rate: float
    frames_per_sec: float
    """Training frames consumed per second, all ranks."""
    eta_sec: float
    """To the stage's target."""


class GpuSample(Telemetry):
    """One reading of one GPU."""

    name: ClassVar[str] = "gpu_sample"
    index: int
    utilization: float | None
    memory_bytes: int
    memory_total_bytes: int
    pids: list[int]
    problem: str | None = None
    """What the driver could not say, and why."""


class Heartbeat(Telemetry):
    """A service lives, and what it works on."""

    name: ClassVar[str] = "heartbeat"
    service: Service
    pid: int
    host: str
    node_rank: int = 0
    """Which host of a chunk that spans several a trainer is."""
    working_on: list[str]
    """Ids of commands in work."""
