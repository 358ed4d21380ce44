"""How a process group is started: its command line and what its environment says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from shared.config import StageConfig

ENTRY = "services.trainer.worker"
"""Module that every rank runs."""
LAUNCHER = "services.trainer.torchrun"
"""Module that starts the ranks of a host, if they are several."""
ON_CPU = {
    # glibc keeps the memory of freed tensors; without, the kernel takes half of training's CPU time
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    # threads that wait for each other spin for microseconds, then sleep. Asleep at once, training takes 1.6
    # times as long on an idle machine; with spins of a millisecond, five times as long beside a busy one
    "GOMP_SPINCOUNT": "1000",
}
PATIENCE_SEC = 30 * 24 * 3600
"""Hosts wait for each other this long: whoever does not come is the trainer's concern, which asks them."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """How this host's ranks meet those of the other hosts of a launch."""

    nnodes: int
    node_rank: int
    endpoint: str
    """host:port on node 0."""
    name: str
    """Of the launch: ranks of another one are kept out."""
    address: str
    """Of this host, as the others reach it."""


def local_ranks(config: StageConfig) -> int:
    """Ranks of a stage's process group on each host."""
    return config.nproc_per_node if config.distributed.use_ddp else 1


def world_size(config: StageConfig) -> int:
    """Ranks of a stage's process group."""
    return local_ranks(config) * config.nnodes


def device(config: StageConfig) -> Literal["cpu", "cuda"]:
    """Where a stage trains; whoever starts a run has resolved `auto`."""
    return "cuda" if config.device == "cuda" else "cpu"


def command(python: str, ranks: int, meeting: Meeting | None = None) -> list[str]:
    """Command line of the launcher: the rank itself, or torchrun for more than one.

    Args:
        python: The interpreter.
        ranks: Processes on this host.
        meeting: With the other hosts, if there are any.
    """
    if ranks == 1 and meeting is None:
        return [python, "-m", ENTRY]
    where = ["--standalone", "--local-addr=127.0.0.1"] if meeting is None else _agent(meeting)
    return [python, "-m", LAUNCHER, *where, f"--nproc_per_node={ranks}", "-m", ENTRY]


def _agent(meeting: Meeting) -> list[str]:
    """Options of one host's torchrun. The static rendezvous, since node 0 has to hold rank 0."""
    return [
        f"--nnodes={meeting.nnodes}",
        f"--node-rank={meeting.node_rank}",
        "--rdzv-backend=static",
        f"--rdzv-endpoint={meeting.endpoint}",
        f"--rdzv-id={meeting.name}",
        f"--rdzv-conf=timeout={PATIENCE_SEC}",
        f"--local-addr={meeting.address}",
    ]


def tuning(place: str, ranks: int, cores: int) -> Mapping[str, str]:
    """Environment that decides how fast ranks compute, and with that in which order they add."""
    threads = {"OMP_NUM_THREADS": str(max(1, cores // ranks))}
    return threads | ON_CPU if place == "cpu" else threads
