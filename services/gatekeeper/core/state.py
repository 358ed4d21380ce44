"""What the gatekeeper knows of a run: values that the fold makes of events, never changed in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import JsonValue

from services.gatekeeper.config import Policy
from services.gatekeeper.core.seen import Seen
from shared.config import InferenceConfig
from shared.events import (
    STAGES,
    ArtifactEvidence,
    ChunkCommand,
    ChunkDone,
    ChunkPlan,
    ChunkStarted,
    Document,
    GateDecided,
    GpuEvidence,
    InferenceDone,
    ReportWritten,
    RunFinished,
    RunSpec,
    Stage,
    Status,
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted gate, or the checkpoint a stage was started from."""

    step: int
    checkpoint: str
    late: float | None = None
    """Mean loss of the last third of its chunk."""
    last10: float | None = None
    """Mean loss of the last 10 % of its chunk; none for a given checkpoint."""


@dataclass(frozen=True, slots=True)
class Next:
    """A chunk that was decided on but is no plan yet: an operator may still patch it."""

    order: type[ChunkCommand]
    resume_from: str | None
    start_step: int
    target_step: int


@dataclass(frozen=True, slots=True)
class StageState:
    """Where one stage stands."""

    stage: Stage
    target: int
    """Updates the stage is to have; ladders and failed inference gates move it."""
    chunk: int
    """Updates to the next gate: the policy's, or halved by the ladder until a gate is accepted."""
    parameters: Document
    """Complete StageConfig with the knobs as retuned."""
    wish: Document = field(default_factory=dict)
    """Knobs an operator wants in the next plan."""
    segment_start: int = 0
    """First update of the schedule's segment."""
    ordinal: int = 0
    """Times the stage was begun."""
    begun: bool = False
    completed: bool = False
    begin_at: tuple[str, int] | None = None
    """Checkpoint and step it begins at; none begins fresh."""
    attempt: int = 0
    """Highest attempt planned."""
    next: Next | None = None
    accepted: Accepted | None = None
    best: Accepted | None = None
    highest: int = 0
    """Highest step ever accepted."""
    newest: tuple[str, int] | None = None
    """Newest valid checkpoint and its step, as the trainer last listed them."""
    restarted_from: frozenset[str] = frozenset()
    retries: int = 0
    restarts: int = 0
    extensions: int = 0
    """Chunks added to the target by the ladder."""
    rung: int = 0
    """Rungs climbed since the retries were last reset."""
    visual_failures: int = 0
    """Gates in a row whose pictures failed."""
    stagnant_gates: int = 0
    """Gates in a row at which the loss had not left its initial level."""
    initial_level: float | None = None
    """Loss level with which the lineage began; none if it began with a given checkpoint."""
    pace: Mapping[int, float] = field(default_factory=dict)
    """Effective batch -> seconds per update in the fastest chunk that had it."""
    unobserved: int = 0
    """Times the chunk to this gate was trained again because nobody watched the GPUs."""

    def knob(self, name: str) -> Any:
        """A parameter's value."""
        return self.parameters[name]

    @property
    def batch(self) -> int:
        """`batch_size_per_gpu`."""
        return int(self.knob("batch_size_per_gpu"))

    @property
    def learning_rate(self) -> float:
        """Peak of the schedule."""
        return float(self.knob("learning_rate"))

    @property
    def effective_batch(self) -> int:
        """Windows per update."""
        return effective_batch(self.parameters)


def effective_batch(parameters: Mapping[str, JsonValue]) -> int:
    """Windows per update, all ranks and micro-batches, of a complete StageConfig."""
    size, steps, ranks = (
        parameters[key] for key in ("batch_size_per_gpu", "gradient_accumulation_steps", "nproc_per_node")
    )
    hosts = parameters.get("nnodes", 1)
    assert isinstance(size, int)
    assert isinstance(steps, int)
    assert isinstance(ranks, int)
    assert isinstance(hosts, int)
    return size * steps * ranks * hosts


@dataclass(frozen=True, slots=True)
class Sending:
    """How often a command was sent: `number` goes into its id, `first` is where the budget began."""

    number: int = 0
    first: int = 0

    def again(self) -> Sending:
        """The next sending."""
        return Sending(self.number + 1, self.first)

    def anew(self) -> Sending:
        """The next sending, with the whole budget before it."""
        return Sending(self.number + 1, self.number + 1)

    def exhausted(self, limit: int) -> bool:
        """Whether this sending was the last the budget allows."""
        return self.number - self.first >= limit


@dataclass(frozen=True, slots=True)
class Chunk:
    """The chunk the trainer has, until its gate is decided."""

    plan: ChunkPlan
    order: type[ChunkCommand]
    sending: Sending = Sending()
    started: ChunkStarted | None = None
    done: ChunkDone | None = None
    gpu: GpuEvidence | None = None
    artifacts: ArtifactEvidence | None = None
    timed_out: bool = False
    """The wait for evidence is over."""
    waived: bool = False
    """The operator goes on without the missing evidence."""
    seen: frozenset[str] = frozenset()
    """Ids of the events about it: they go with it, for then its attempt fences them off."""

    @property
    def missing(self) -> list[str]:
        """Evidence the gate waits for."""
        return [
            name
            for name, evidence in (("gpu_evidence", self.gpu), ("artifact_evidence", self.artifacts))
            if evidence is None
        ]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The inference test that is asked for, until its gate is decided."""

    number: int
    """`inference_try`."""
    checkpoints: Mapping[Stage, str]
    sending: Sending = Sending()
    done: InferenceDone | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """The run is over but for its reports."""

    outcome: Status
    reason: str
    ordinal: int
    sending: Sending = Sending()
    reports: Mapping[str, ReportWritten] = field(default_factory=dict)
    given_up: bool = False
    """The reporter does not answer."""


@dataclass(frozen=True)
class RunState:
    """Everything the gatekeeper knows of one run. No slots: it is copied with every event, as one table."""

    run_id: str
    sequence: int = 0
    """Of the run's last event."""
    seen: Seen = field(default_factory=Seen)
    """Ids of the events read, but for those about a chunk (`Chunk.seen`): what a gate leaves is one id."""
    spec: RunSpec | None = None
    policy: Policy = field(default_factory=Policy)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    stages: Mapping[Stage, StageState] = field(default_factory=dict)
    """The stages to train, in order."""

    queued_since: int = 0
    """Sequence of the request that put the run into the queue."""
    announced: bool = False
    """`run_queued` is in the log."""
    started: bool = False
    pause_wanted: bool = False
    paused: Literal["operator", "evidence"] | None = None
    resume_wanted: bool = False
    stop: str | None = None
    """Why the operator wants it to end."""
    blocked: GateDecided | None = None
    """A gate that stopped the run, before `stage_blocked`."""
    degraded: bool = False

    chunk: Chunk | None = None
    evaluation: Evaluation | None = None
    ending: Ending | None = None
    finished: RunFinished | None = None

    tries: int = 0
    """Inference tries decided."""
    inference_failures: int = 0
    """Inference gates that sent dynamics back to training."""
    inference_retries: int = 0
    """The same, since the budget began."""
    inference_passed: bool = False
    mode: str = "autoregressive"
    pauses: int = 0
    resumes: int = 0
    ends: int = 0
    """Times an ending began."""
    blocks: int = 0

    @property
    def current(self) -> StageState | None:
        """The stage that is not completed yet; none when all are."""
        return next((stage for stage in self.stages.values() if not stage.completed), None)

    @property
    def unfinished(self) -> bool:
        """Whether there is anything left to do."""
        return self.spec is not None and (self.finished is None or self.resume_wanted)

    @property
    def status(self) -> Status:
        """One word for people."""
        if self.finished is not None and not self.resume_wanted:
            return self.finished.status
        if self.paused is not None:
            return "paused"
        return "running" if self.started and not self.resume_wanted else "queued"

    @property
    def selected(self) -> dict[Stage, str]:
        """The checkpoint of each stage that later stages and the inference test use."""
        found: dict[Stage, str] = {}
        for name in STAGES:
            stage = self.stages.get(name)
            if stage is not None and stage.accepted is not None:
                found[name] = stage.accepted.checkpoint
            elif self.spec is not None and name in self.spec.checkpoints:
                found[name] = self.spec.checkpoints[name]
        return found

    @property
    def report_kinds(self) -> list[str]:
        """Reports without which the run has not passed."""
        needed = self.policy.required_reports
        return [kind for kind in needed if kind != "loop" or self.stages]

    def past(self, sequence: int) -> RunState:
        """This state, having passed over events that cannot be read, or change nothing."""
        return self if sequence <= self.sequence else self._with(sequence=sequence)

    def knowing(self, message_id: str, sequence: int) -> RunState:
        """This state, having read an event."""
        return self._with(seen=self.seen.add(message_id), sequence=max(sequence, self.sequence))

    def with_stage(self, stage: StageState) -> RunState:
        """This state with one stage replaced."""
        return self._with(stages={**self.stages, stage.stage: stage})

    def with_chunk(self, chunk: Chunk) -> RunState:
        """This state with its chunk replaced."""
        return self._with(chunk=chunk)

    def _with(self, **changes: Any) -> RunState:
        """`replace` for what happens with every event: a tenth of its cost."""
        copy = object.__new__(RunState)
        copy.__dict__.update(self.__dict__, **changes)
        return copy
