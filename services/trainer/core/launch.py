"""How a process group is started: its command line and what its environment says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from shared.config import StageConfig

ENTRY = "services.trainer.worker"
"""Module that every rank runs."""
ON_CPU = {
    # glibc keeps the memory of freed tensors; without, the kernel takes half of training's CPU time
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    # threads that wait for each other spin for microseconds, then sleep. Asleep at once, training takes 1.6
    # times as long on an idle machine; with spins of a millisecond, five times as long beside a busy one
    "GOMP_SPINCOUNT": "1000",
}


def world_size(config: StageConfig) -> int:
    """Ranks of a stage's process group."""
    return config.nproc_per_node if config.distributed.use_ddp else 1


def device(config: StageConfig) -> Literal["cpu", "cuda"]:
    """Where a stage trains; whoever starts a run has resolved `auto`."""
    return "cuda" if config.device == "cuda" else "cpu"


def command(python: str, ranks: int) -> list[str]:
    """Command line of the launcher: the rank itself, or torchrun for more than one."""
    if ranks == 1:
        return [python, "-m", ENTRY]
    torchrun = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--local-addr=127.0.0.1",
        f"--nproc_per_node={ranks}",
    ]
    return [python, *torchrun, "-m", ENTRY]


def tuning(place: str, ranks: int, cores: int) -> Mapping[str, str]:
    """Environment that decides how fast ranks compute, and with that in which order they add."""
    threads = {"OMP_NUM_THREADS": str(max(1, cores // ranks))}
    return threads | ON_CPU if place == "cpu" else threads
