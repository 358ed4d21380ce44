"""The monitor's section of `policy.yaml`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.config import Config

Seconds = Annotated[float, Field(gt=0)]


class SilenceLimits(Config):
    """Seconds a channel of a running chunk may be silent before it is an alert. An alert ends nothing."""

    progress: Seconds = 180.0
    """Messages about the training step."""
    history: Seconds = 1800.0
    """Rows in the history file."""
    checkpoint: Seconds = 7200.0
    """A newer checkpoint directory."""
    visualization: Seconds = 7200.0
    """A newer picture sheet."""
    gpu: Seconds = 60.0
    """Readings of the GPUs, on CUDA where NVML is there."""
    node: Seconds = 60.0
    """Heartbeats of the trainer on another host of the chunk."""


class Policy(Config):
    """How GPUs are sampled, and when silence is an alert."""

    monitor_interval_sec: Seconds = 5.0
    """Between two GPU readings; a chunk's first seconds are read more densely."""
    gpu_util_threshold: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Percent from which on a GPU counts as active."""
    gpu_required_samples: Annotated[int, Field(ge=1)] = 2
    """Active readings a GPU needs to count as used."""
    silence_sec: SilenceLimits = SilenceLimits()
