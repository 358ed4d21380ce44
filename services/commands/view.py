"""What a person wants to know of a run, folded from its events and telemetry. Pure: values in, values out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from shared.bus.protocol import Recorded
from shared.events import (
    AlertRaised,
    ArtifactEvidence,
    ChunkDone,
    ChunkStarted,
    CommandRejected,
    CommandTimedOut,
    EvidenceTimedOut,
    GateDecided,
    GateStage,
    GpuEvidence,
    InferenceDone,
    OperatorRequested,
    ReportWritten,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunSpec,
    RunStarted,
    Stage,
    StageBlocked,
    StageCompleted,
    StageStarted,
    Status,
    TrainProgress,
)

ENDED: tuple[Status, ...] = ("passed", "stage_completed", "failed", "stopped")
GOOD: tuple[Status, ...] = ("passed", "stage_completed")


@dataclass(frozen=True, slots=True)
class StageView:
    """One stage."""

    stage: GateStage
    step: int = 0
    """Updates that training goes on from, as of the last gate."""
    target: int = 0
    gates: int = 0
    retries_used: int = 0
    retries_max: int = 0
    restarts_used: int = 0
    completed: bool = False
    checkpoint: str | None = None
    """Newest accepted one."""


@dataclass(frozen=True, slots=True)
class RunView:
    """A run, as of the last message."""

    run_id: str
    spec: RunSpec | None = None
    status: Status = "queued"
    phase: str = "asked for"
    """What is being done now."""
    reason: str = ""
    mode: str = "autoregressive"
    degraded: bool = False
    stages: dict[str, StageView] = field(default_factory=dict)
    stage: Stage | None = None
    attempt: int = 0
    progress: TrainProgress | None = None
    decisions: tuple[GateDecided, ...] = ()
    inference: InferenceDone | None = None
    reports: tuple[ReportWritten, ...] = ()
    notes: tuple[str, ...] = ()
    """Alerts, refusals, time-outs, failures; newest last."""
    refused: dict[str, str] = field(default_factory=dict)
    """Operator's request id -> why it was refused."""
    seen: frozenset[str] = frozenset()
    """Ids folded already."""
    last: datetime | None = None
    """Time of the last event."""

    @property
    def ended(self) -> bool:
        """Whether the run is over, until an operator resumes it."""
        return self.status in ENDED

    @property
    def bundle(self) -> str | None:
        """Where its files are."""
        return self.spec.bundle if self.spec else None


def fold(view: RunView, recorded: Recorded) -> RunView:
    """The view after one more message; a message of another run, or an event seen before, changes nothing."""
    message = recorded.message
    if message.run_id != view.run_id or (message.id and message.id in view.seen):
        return view
    if isinstance(message, TrainProgress):
        return (
            replace(view, progress=message)
            if (message.stage, message.attempt) == (view.stage, view.attempt)
            else view
        )
    if message.kind != "event":
        return view
    return replace(_event(view, recorded), seen=view.seen | {message.id}, last=recorded.time)


def fold_all(run_id: str, records: list[Recorded]) -> RunView:
    """The view after all these messages."""
    view = RunView(run_id)
    for recorded in records:
        view = fold(view, recorded)
    return view


def _event(view: RunView, recorded: Recorded) -> RunView:
    match recorded.message:
        case RunQueued(spec=spec, behind=behind):
            return replace(view, spec=spec, status="queued", phase=f"waits behind {', '.join(behind)}")
        case RunStarted(spec=spec):
            return replace(view, spec=spec, status="running", phase="started")
        case StageStarted() as event:
            return _start_stage(view, event)
        case ChunkStarted() as event:
            return _start_chunk(view, event)
        case ChunkDone(reason=reason, end_step=end):
            return replace(view, phase=f"chunk ended ({reason}) at {end}; waits for evidence")
        case GpuEvidence() | ArtifactEvidence():
            return view
        case EvidenceTimedOut(missing=missing):
            return _note(view, f"no evidence from {', '.join(missing)}")
        case GateDecided() as event:
            return _decide(view, event)
        case StageCompleted(stage=stage, step=step, checkpoint=checkpoint):
            done = replace(_stage(view, stage), completed=True, step=step, checkpoint=checkpoint)
            return replace(_with(view, done), progress=None, phase=f"{stage} complete")
        case StageBlocked(stage=stage, blocking_factors=factors):
            return _note(replace(view, phase=f"{stage} blocked"), f"{stage} blocked: {'; '.join(factors)}")
        case InferenceDone() as event:
            return replace(view, inference=event, phase="inference measured")
        case ReportWritten() as event:
            noted = view if event.ok else _note(view, f"report {event.report} failed: {event.error}")
            return replace(noted, reports=(*view.reports, event), phase="writing reports")
        case RunPaused(by=by, reason=reason):
            return replace(view, status="paused", phase=f"paused by {by}", reason=reason)
        case RunResumed(reason=reason):
            return replace(view, status="running", phase="resumed", reason=reason)
        case RunFinished(status=status, degraded=degraded, reason=reason, mode=mode):
            return replace(
                view,
                status=status,
                degraded=degraded,
                reason=reason,
                mode=mode,
                phase="finished",
                progress=None,
            )
        case OperatorRequested(request="start_run", arguments=arguments) if (
            view.spec is None and "spec" in arguments
        ):
            return replace(view, spec=RunSpec.model_validate(arguments["spec"]))
        case CommandRejected(request=request, request_id=request_id, reason=reason):
            return _note(
                replace(view, refused={**view.refused, request_id: reason}), f"refused {request}: {reason}"
            )
        case CommandTimedOut(command=command, service=service):
            return _note(view, f"nothing came of {command}; is the {service} alive?")
        case AlertRaised(channel=channel, silence_sec=silence, detail=detail):
            return _note(view, f"alert: {detail or f'{channel}: silent for {silence:.0f} s'}")
        case _:
            return view


def _start_stage(view: RunView, event: StageStarted) -> RunView:
    stage = replace(
        _stage(view, event.stage), step=event.start_step, target=event.target_step, completed=False
    )
    return replace(
        _with(view, stage), stage=event.stage, attempt=0, progress=None, phase=f"starting {event.stage}"
    )


def _start_chunk(view: RunView, event: ChunkStarted) -> RunView:
    plan = event.plan
    how = "warm" if event.warm else f"launch {event.launch}"
    where = f"{event.world_size} x {event.device}"
    return replace(
        view,
        stage=event.stage,
        attempt=event.attempt,
        progress=None,
        phase=f"training {plan.start_step} to {plan.target_step} (attempt {event.attempt}, {how}, {where})",
    )


def _decide(view: RunView, event: GateDecided) -> RunView:
    accepted = event.accepted_checkpoint
    before = _stage(view, event.stage)
    stage = replace(
        before,
        gates=before.gates + 1,
        step=event.resume_step,
        target=event.target_step,
        retries_used=event.retries_used,
        retries_max=event.retries_max,
        restarts_used=event.restarts_used,
        checkpoint=accepted or before.checkpoint,
    )
    return replace(
        _with(view, stage),
        decisions=(*view.decisions, event),
        degraded=view.degraded or event.degraded,
        phase=f"decided {event.decision}",
    )


def _stage(view: RunView, stage: GateStage) -> StageView:
    return view.stages.get(stage, StageView(stage))


def _with(view: RunView, stage: StageView) -> RunView:
    return replace(view, stages={**view.stages, stage.stage: stage})


def _note(view: RunView, note: str) -> RunView:
    return replace(view, notes=(*view.notes, note))
