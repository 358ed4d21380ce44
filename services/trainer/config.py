"""The trainer's section of `policy.yaml`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.config import Config

Seconds = Annotated[float, Field(gt=0)]


class Policy(Config):
    """How the training process group is launched, watched and ended."""

    checkout: str | None = None
    """TinyWorlds repository that trains instead of the built-in trainer."""
    python_exec: str | None = None
    """Interpreter of the checkout; none is that of its own environment, else the one that runs worldloop."""
    torchrun: str | None = None
    """Launcher of the checkout; none is the one beside its interpreter."""
    hang_timeout_sec: Seconds = 600.0
    """A group whose step does not advance for this long is ended and launched again."""
    max_relaunches: Annotated[int, Field(ge=0)] = 3
    """Relaunches of an attempt without a new valid checkpoint in between, before it is a runtime error."""
    keep_last: Annotated[int, Field(ge=1)] = 5
    """Newest valid checkpoints kept, besides those of accepted gates."""
    cleanup_extra_processes: bool = True
    """End other training launchers of this stack (the guard); off, they are reported only."""
    guard_interval_sec: Seconds = 30.0
    """How often the guard looks while a chunk runs."""
    min_free_disk_mb: Annotated[int, Field(ge=0)] = 512
    """Free space below which no chunk starts."""
    warm_workers: bool = True
    """Hand the next plan to the same process group; off, every chunk gets a new one."""
    warm_idle_sec: Seconds = 300.0
    """A warm group without a plan for this long is ended."""
    kill_grace_sec: Seconds = 5.0
    """Between asking a process to end and killing it."""
    exit_grace_sec: Seconds = 20.0
    """How long a group that was told to exit may take to close its wandb run."""
