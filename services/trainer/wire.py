"""What a trainer and its process group say to each other: one JSON object per line.

Rank 0 speaks for all; the first rank of another host says `hello` and `ready` to the trainer there.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from shared.events import BundlePath, ChunkPlan, Value

CONTROL = "WORLDLOOP_CONTROL"
"""Environment of a rank: `port:token` of the trainer's control server on the loopback interface."""
CACHE = "WORLDLOOP_CACHE_DIR"
"""Environment of a rank: where what can be computed again goes."""
DEVICE = "WORLDLOOP_DEVICE"
"""Environment of a rank: cpu or cuda."""
THREADS = "OMP_NUM_THREADS"
"""Environment of a rank: threads it may compute with."""


class Run(Value):
    """Trainer: train this."""

    kind: Literal["run"] = "run"
    run_id: str
    run_name: str
    bundle: str
    """Absolute path of the bundle."""
    data_dir: str | None = None
    """Where this host keeps recordings; none: under the path that the plan names."""
    plan: ChunkPlan
    launch: int
    resume_from: BundlePath | None
    """Checkpoint to go on from: the plan's, or a later one of the same attempt after a relaunch."""
    resume_step: int
    """Updates done in it."""


class Stop(Value):
    """Trainer: end the chunk after the current update, with a checkpoint."""

    kind: Literal["stop"] = "stop"


class Exit(Value):
    """Trainer: no more plans."""

    kind: Literal["exit"] = "exit"


class Hello(Value):
    """First rank of a host: here I am."""

    kind: Literal["hello"] = "hello"
    token: str


class Ready(Value):
    """First rank of a host: all ranks of all hosts are up."""

    kind: Literal["ready"] = "ready"
    pids: list[int]
    """Of the host's ranks."""


class Progress(Value):
    """Rank 0: where the chunk is."""

    kind: Literal["progress"] = "progress"
    step: int
    loss: float | None
    learning_rate: float
    frames_per_sec: float


class Saved(Value):
    """Rank 0: a checkpoint is complete on the disk; its weights were finite."""

    kind: Literal["saved"] = "saved"
    path: BundlePath
    step: int


class Finished(Value):
    """Rank 0: the chunk is over."""

    kind: Literal["finished"] = "finished"
    reason: Literal["completed", "non_finite", "stopped"]
    end_step: int
    cpu_seconds: list[float]
    timing: dict[str, float]
    wandb_run_id: str | None
    wandb_dir: BundlePath | None
    problems: list[str]
    """What went wrong without ending the chunk (token cache, wandb)."""


Order = Run | Stop | Exit
Report = Hello | Ready | Progress | Saved | Finished

ORDER: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="kind")])
REPORT: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])


def line(message: Order | Report) -> bytes:
    """A message as it goes over the connection."""
    return message.model_dump_json().encode() + b"\n"
