"""What the play server serves, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from shared.config import Config, Device, InferenceConfig, TrainingConfig
from shared.events import Stage
from shared.web.listen import LOOPBACK


class PlayConfig(Config):
    """A world, and the limits it is played within."""

    checkpoints: dict[Stage, Path]
    """Step directory of each stage."""
    dataset: Path
    """Recording that the seed frames come from."""
    training: TrainingConfig
    """How that recording is read: windows, rate, held-out part."""
    game: str
    run: str
    """What the page calls the world."""
    cache_dir: Path
    """Where a compressed recording is unpacked."""
    host: str = LOOPBACK[0]
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0 takes a free one."""
    token: Annotated[str, Field(min_length=1, repr=False)]
    """Asked of whoever wants to play."""
    fps: Annotated[float, Field(gt=0, le=60)] = 10.0
    """Frames per second that the decoding steps adapt to hold."""
    players: Annotated[int, Field(gt=0)] = 8
    """Sessions at a time."""
    idle_sec: Annotated[float, Field(gt=0)] = 300.0
    """A session without any input for so long is ended."""
    device: Device = "auto"
    settings: InferenceConfig = InferenceConfig()
    """How frames are generated: context, the most decoding steps, temperature, seed."""
