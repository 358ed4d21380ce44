"""One chunk: the commands to the trainers of its hosts, and what they say of it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from shared.events.base import BundlePath, ChunkEnd, Command, Event, Service, Stage, Value
from shared.events.plans import ChunkPlan


class ChunkCommand(Command):
    """Train one chunk. Acked once `chunk_started` is durable; only `chunk_done` answers it."""

    service: ClassVar[Service] = "trainer"
    plan: ChunkPlan
    retry: int = 0
    """Times the command was sent again because nothing came of it."""

    def id_parts(self) -> tuple[object, ...]:
        """Stage, attempt, and which sending it is."""
        return (self.plan.stage, self.plan.attempt, self.retry)


class StartChunk(ChunkCommand):
    """First chunk of a stage."""

    name: ClassVar[str] = "start"


class ContinueChunk(ChunkCommand):
    """Next chunk after an accepted gate."""

    name: ClassVar[str] = "continue"


class RetuneChunk(ChunkCommand):
    """Again, with changed knobs or evidence wanting."""

    name: ClassVar[str] = "retune"


class RestartChunk(ChunkCommand):
    """Again from the best checkpoint, or fresh."""

    name: ClassVar[str] = "restart"


class StopChunk(Command):
    """End the chunk after its current update and a checkpoint."""

    name: ClassVar[str] = "stop"
    service: ClassVar[Service] = "trainer"
    stage: Stage
    attempt: int

    def id_parts(self) -> tuple[object, ...]:
        """Stage and attempt."""
        return (self.stage, self.attempt)


class JoinChunk(Command):
    """Start this host's part of a launch: from node 0's trainer to that of each other host of the chunk."""

    name: ClassVar[str] = "join"
    service: ClassVar[Service] = "trainer"
    plan: ChunkPlan
    launch: int = Field(ge=1)
    node_rank: int = Field(ge=1)
    """The host it is for; its subject ends with it."""

    def id_parts(self) -> tuple[object, ...]:
        """Stage, attempt, launch, host."""
        return (self.plan.stage, self.plan.attempt, self.launch, self.node_rank)


class TrainerStarted(Event):
    """A trainer works from now on, in place of any other of its node rank."""

    name: ClassVar[str] = "trainer_started"
    node_rank: int
    host: str
    pid: int
    place: str
    """Names its state directory, of which there is one trainer at a time."""
    after: int
    """Sequence of the event that was the last one of no run."""

    def id_parts(self) -> tuple[object, ...]:
        """Node rank, place in the log, state directory, host."""
        return (self.node_rank, self.after, self.place, self.host)


class ChunkEvent(Event):
    """An event about one chunk."""

    stage: Stage
    attempt: int

    def id_parts(self) -> tuple[object, ...]:
        """Stage and attempt."""
        return (self.stage, self.attempt)


class ChunkStarted(ChunkEvent):
    """The trainer took the plan."""

    name: ClassVar[str] = "chunk_started"
    plan: ChunkPlan
    launch: int = 1
    """Rises with each relaunch of the same attempt."""
    resume_step: int | None = None
    """Updates done that this launch goes on from; none is the plan's start."""
    recount: bool = False
    """The launch before was ended because a checkout's script counts otherwise than thought; none failed."""
    launcher_pid: int
    host: str
    warm: bool = False
    """Handed to a process group that was already running."""
    device: str
    """cpu or cuda."""
    world_size: int

    def id_parts(self) -> tuple[object, ...]:
        """Stage, attempt, launch."""
        return (self.stage, self.attempt, self.launch)


class NodeEvent(ChunkEvent):
    """An event about another host's part of a launch; node 0's is `chunk_started` and `chunk_done`."""

    launch: int
    node_rank: int
    host: str
    launcher_pid: int
    """Of that host's torchrun agent; 0 where none was started."""

    def id_parts(self) -> tuple[object, ...]:
        """Stage, attempt, launch, host."""
        return (self.stage, self.attempt, self.launch, self.node_rank)


class NodeJoined(NodeEvent):
    """A host has started its part of a launch."""

    name: ClassVar[str] = "node_joined"


class NodeLost(NodeEvent):
    """A host's part of a launch ended before the launch did."""

    name: ClassVar[str] = "node_lost"
    exit_code: int | None
    death: Literal["oom", "killed", "failed", "peer"]
    """Why, as far as that host can tell: `peer` is that the connection to another host was lost."""
    stderr_tail: str = ""


class CheckpointInfo(Value):
    """What the trainer found when it looked at a checkpoint directory."""

    path: BundlePath
    step: int
    """Updates done (TinyWorlds' directory number + 1)."""
    valid: bool
    problem: str | None = None
    """Why it is not valid."""
    size_bytes: int = 0


class ChunkDone(ChunkEvent):
    """The chunk is over, one way or another."""

    name: ClassVar[str] = "chunk_done"
    reason: ChunkEnd
    exit_code: int | None = None
    """None for a warm group that goes on living."""
    start_step: int
    end_step: int
    target_step: int
    launch: int
    launcher_pid: int
    device: str
    world_size: int
    checkpoints: list[CheckpointInfo]
    """The stage's lineage, oldest first."""
    visualization: BundlePath | None = None
    """Newest sheet."""
    history: BundlePath | None = None
    """CSV of this attempt's rows."""
    wandb_run_id: str | None = None
    wandb_dir: BundlePath | None = None
    seconds: float
    """Wall time from the first launch to here."""
    cpu_seconds: list[float] = []
    """CPU seconds per rank."""
    timing: dict[str, float] = {}
    """Unix times `first_update_begin`, `last_update_end`; durations `checkpoint`, `visualization`, in s."""
    stderr_tail: str = ""

    @property
    def group_lives_on(self) -> bool:
        """Whether a warm group waits for the next plan."""
        return self.reason == "completed" and self.exit_code is None
