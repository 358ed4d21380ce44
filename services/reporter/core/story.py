"""A run as its events tell it: what every report is built from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from services.reporter.core.page.goodput import Times
from services.reporter.core.page.model import Goodput
from shared.bus.protocol import Recorded
from shared.config import RunConfig
from shared.events import (
    WRITERS,
    AlertRaised,
    ArtifactEvidence,
    ChunkDone,
    ChunkStarted,
    CommandRejected,
    CommandTimedOut,
    Event,
    EvidenceTimedOut,
    GateDecided,
    GpuEvidence,
    InferenceDone,
    LauncherKilled,
    OperatorRequested,
    ReportWritten,
    RunFinished,
    RunPaused,
    RunResumed,
    RunSpec,
    SpecEvent,
    Stage,
    StageBlocked,
    StageCompleted,
    Status,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the run ended, as the gatekeeper says; or where it is, when it has not ended."""

    status: Status
    reason: str
    degraded: bool

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.status not in ("queued", "running", "paused")


@dataclass(slots=True)
class Attempt:
    """One chunk, from its launches to its gate."""

    starts: list[ChunkStarted] = field(default_factory=list)
    done: ChunkDone | None = None
    gpu: GpuEvidence | None = None
    artifacts: ArtifactEvidence | None = None
    gate: GateDecided | None = None
    began: datetime | None = None
    """When it was first launched."""
    decided: datetime | None = None
    """When its gate was decided."""

    @property
    def number(self) -> int:
        """Its number in its stage."""
        event = self.starts[0] if self.starts else self.done or self.gate
        return event.attempt if event is not None else 0


@dataclass(slots=True)
class Story:
    """The run up to the event that decided its end; of one that has not ended, all that is known."""

    run_id: str
    spec: RunSpec
    began: datetime
    decided: datetime
    """When the run's end was decided: the reports' time stamp, so that writing them again gives the same."""
    attempts: dict[tuple[Stage, int], Attempt] = field(default_factory=dict)
    """In the order they were started."""
    inferences: list[InferenceDone] = field(default_factory=list)
    inference_gates: list[GateDecided] = field(default_factory=list)
    decisions: list[tuple[datetime, GateDecided]] = field(default_factory=list)
    """All gates, the inference gates too, in the order of time."""
    selected: dict[Stage, str] = field(default_factory=dict)
    """The checkpoint of each stage that the run ends with: the last accepted gate's, or the given one."""
    blocked: list[StageBlocked] = field(default_factory=list)
    requests: list[tuple[datetime, OperatorRequested | CommandRejected]] = field(default_factory=list)
    pauses: list[tuple[datetime, RunPaused | RunResumed]] = field(default_factory=list)
    alerts: list[AlertRaised] = field(default_factory=list)
    killed: list[LauncherKilled] = field(default_factory=list)
    timed_out: list[EvidenceTimedOut | CommandTimedOut] = field(default_factory=list)
    endings: list[tuple[datetime, RunFinished]] = field(default_factory=list)
    """Times it ended before, and was resumed."""
    spent: Goodput | None = None
    """Where the time went."""

    @property
    def configuration(self) -> RunConfig:
        """What the run was started with."""
        return RunConfig.recorded(self.spec.configuration)

    @property
    def stamp(self) -> str:
        """`YYYY_MM_DD_HH_MM_SS` of the reports' names."""
        return f"{self.decided:%Y_%m_%d_%H_%M_%S}"

    @property
    def gates(self) -> list[GateDecided]:
        """The gates of the training stages, in order."""
        return [attempt.gate for attempt in self.attempts.values() if attempt.gate is not None]

    def of(self, stage: Stage) -> Iterator[Attempt]:
        """The attempts of a stage, in order."""
        return (attempt for (name, _), attempt in self.attempts.items() if name == stage)

    def accepted(self, stage: Stage) -> GateDecided | None:
        """The stage's last accepted gate."""
        gates = [gate for gate in self.gates if gate.stage == stage and gate.accepted_checkpoint is not None]
        return gates[-1] if gates else None


def tell(records: Sequence[Recorded], *, ended: bool = True) -> Story | None:
    """The story of a run from its events; none before `run_started` or `run_queued`.

    Args:
        records: The events, in order.
        ended: What came after the event that decided the end (evidence nobody waited for, alerts, reports) is
            left out; otherwise all counts but the reports.
    """
    counts = _decides if ended else _is_told
    deciding = [place for place, record in enumerate(records) if counts(record.message)]
    told = records[: deciding[-1] + 1] if deciding else records
    spec = next((r.message.spec for r in told if isinstance(r.message, SpecEvent)), None)
    if spec is None:
        return None
    story = Story(told[0].message.run_id, spec, told[0].time, told[-1].time, selected=dict(spec.checkpoints))
    seen: set[str] = set()
    times = Times()
    for record in told:
        if record.message.id not in seen:
            seen.add(record.message.id)
            _fold(story, record)
            if isinstance(record.message, Event):
                times.take(record.message, record.time.timestamp())
    story.spent = times.goodput(story.decided.timestamp())
    return story


def _decides(message: object) -> bool:
    """Whether an event can be the one that decides a run's end: the gatekeeper's, but those about reports."""
    if isinstance(message, CommandTimedOut):
        return message.service != "reporter"
    return (
        isinstance(message, Event)
        and message.name not in WRITERS
        and not isinstance(message, RunFinished | CommandRejected)
    )


def _is_told(message: object) -> bool:
    return not isinstance(message, ReportWritten | CommandRejected)


def _fold(story: Story, record: Recorded) -> None:
    match record.message:
        case ChunkStarted() as event:
            attempt = _attempt(story, event.stage, event.attempt)
            attempt.starts.append(event)
            attempt.began = attempt.began or record.time
        case ChunkDone() as event:
            _attempt(story, event.stage, event.attempt).done = event
        case GpuEvidence() as event:
            _attempt(story, event.stage, event.attempt).gpu = event
        case ArtifactEvidence() as event:
            _attempt(story, event.stage, event.attempt).artifacts = event
        case GateDecided(stage="inference") as event:
            story.inference_gates.append(event)
            story.decisions.append((record.time, event))
        case GateDecided() as event:
            assert event.stage != "inference"
            attempt = _attempt(story, event.stage, event.attempt)
            attempt.gate, attempt.decided = event, record.time
            story.decisions.append((record.time, event))
            _select(story, event.stage, event)
        case InferenceDone() as event:
            story.inferences.append(event)
        case StageCompleted() as event:
            story.selected[event.stage] = event.checkpoint
        case StageBlocked() as event:
            story.blocked.append(event)
        case OperatorRequested() | CommandRejected() as event:
            story.requests.append((record.time, event))
        case RunPaused() | RunResumed() as event:
            story.pauses.append((record.time, event))
        case AlertRaised() as event:
            story.alerts.append(event)
        case LauncherKilled() as event:
            story.killed.append(event)
        case EvidenceTimedOut() | CommandTimedOut() as event:
            story.timed_out.append(event)
        case RunFinished() as event:
            story.endings.append((record.time, event))
        case _:
            pass


def _attempt(story: Story, stage: Stage, attempt: int) -> Attempt:
    return story.attempts.setdefault((stage, attempt), Attempt())


def _select(story: Story, stage: Stage, gate: GateDecided) -> None:
    if gate.accepted_checkpoint is not None:
        story.selected[stage] = gate.accepted_checkpoint
    elif gate.decision == "restart_stage" and gate.resume_from is not None:
        story.selected[stage] = gate.resume_from
    elif gate.decision == "restart_stage":
        story.selected.pop(stage, None)
