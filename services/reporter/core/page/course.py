"""Where the run stands: its status, what is being done, what the operator asked for and may ask for."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.reporter.core.markdown import number
from services.reporter.core.page.model import Action
from shared.events import (
    ENDED,
    ArtifactEvidence,
    ChunkDone,
    ChunkStarted,
    CommandTimedOut,
    Event,
    EvidenceTimedOut,
    GateDecided,
    GpuEvidence,
    InferenceDone,
    OperatorRequested,
    ReportWritten,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    StageBlocked,
    StageCompleted,
    StageStarted,
    Status,
)


@dataclass(slots=True)
class Course:
    """The run as its operator sees it."""

    status: Status = "queued"
    phase: str = "Asked for"
    reason: str = ""
    degraded: bool = False
    mode: str = "autoregressive"
    ending: bool = False
    """Nothing is left but the reports."""
    wishes: dict[str, str] = field(default_factory=dict)
    """Request id -> what was asked for and is not done yet."""
    _kinds: dict[str, str] = field(default_factory=dict)
    """Request id -> kind of the wish."""

    @property
    def ended(self) -> bool:
        """Whether the run is over, until it is resumed."""
        return self.status in ENDED

    def actions(self, *, retune: bool) -> list[Action]:
        """What the gatekeeper would take now.

        Args:
            retune: Whether a stage is left to train.
        """
        wanted = set(self._kinds.values())
        if self.status in ("passed", "stage_completed") or "resume" in wanted:
            return []
        if self.ended:
            return ["resume"]
        if self.ending:
            return []
        found: list[Action] = []
        paused = self.status == "paused"
        if not paused and "pause" not in wanted:
            found.append("pause")
        if paused or "pause" in wanted:
            found.append("resume")
        if "stop" not in wanted:
            found.append("stop")
        return [*found, "retune"] if retune else found

    def take(self, event: Event, *, inference: bool, trained: bool) -> None:
        """Fold an event in.

        Args:
            event: What happened.
            inference: Whether the run goes on to the inference test.
            trained: Whether all stages have reached their targets.
        """
        match event:
            case RunQueued(behind=behind):
                self.status = "queued"
                self.phase = f"Waits behind {', '.join(behind)}" if behind else "Waits for the trainer"
            case RunStarted():
                self.status, self.phase = "running", "Started"
                if trained and inference:
                    self.phase = "The inference test is running"
            case RunPaused(by=by, reason=reason):
                self.status, self.reason, self.phase = "paused", reason, f"Paused by {_who(by)}"
                self._fulfil("pause")
            case RunResumed(reason=reason):
                self.status, self.reason, self.phase = "running", reason, "Resumed"
                self.ending = False
                self._fulfil("resume", "pause", "stop")
            case RunFinished():
                self.status, self.reason, self.mode = event.status, event.reason, event.mode
                self.degraded, self.phase = self.degraded or event.degraded, f"Ended: {event.status}"
                self.ending = False
                self._fulfil("pause", "stop", "resume", "retune")
            case OperatorRequested():
                self._ask(event)
            case _:
                self._work(event, inference=inference, trained=trained)

    def _work(self, event: Event, *, inference: bool, trained: bool) -> None:
        match event:
            case StageStarted(stage=stage):
                self.phase = f"Starting {stage}"
            case ChunkStarted(plan=plan):
                how = "warm" if event.warm else f"launch {event.launch}"
                where = f"{event.world_size} x {event.device}"
                self.phase = (
                    f"Training {event.stage}: updates {plan.start_step} to {plan.target_step} of "
                    f"{plan.schedule.end_step} (attempt {event.attempt}, {how}, {where})"
                )
                self._fulfil("retune")
            case ChunkDone():
                self.phase = (
                    f"At the gate of {event.stage}: the chunk ended {event.reason} at {event.end_step}"
                )
            case GpuEvidence() | ArtifactEvidence():
                self.phase = f"At the gate of {event.stage}: measuring attempt {event.attempt}"
            case EvidenceTimedOut(missing=missing):
                self.phase = f"At the gate of {event.stage}: waits for {' and '.join(missing)}"
            case GateDecided():
                self.degraded = self.degraded or event.degraded
                self.phase = f"Decided at the gate of {event.stage}: {event.decision}"
                self.ending = event.decision == "stop" or (
                    event.stage == "inference" and event.decision == "continue"
                )
            case StageCompleted(stage=stage):
                self.phase = f"{stage} is complete"
                if trained:
                    self.phase = "The inference test is running" if inference else "Writing reports"
                    self.ending = not inference
            case StageBlocked(stage=stage):
                self.phase, self.ending = f"{stage} is blocked: writing reports", True
            case InferenceDone():
                self.phase = f"At the inference gate: try {event.inference_try} is measured"
            case CommandTimedOut(service=service):
                self.phase = f"Waits for the {service}, which does not answer"
            case ReportWritten():
                self.phase, self.ending = "Writing reports", True
            case _:
                pass

    def _ask(self, event: OperatorRequested) -> None:
        kind = event.request.removesuffix("_run")
        if kind == "start":
            return
        text = {
            "pause": "pause at the next gate",
            "resume": "resume",
            "stop": "stop after the current update",
            "retune": f"retune {event.arguments.get('stage')}: {number(event.arguments.get('changes'))}",
        }[kind]
        if kind == "resume":
            self._fulfil("pause")
        if kind == "resume" and not (self.status == "paused" or self.ended):
            return  # it took back a pause that had not come yet
        self.wishes[event.request_id], self._kinds[event.request_id] = text, kind

    def _fulfil(self, *kinds: str) -> None:
        for request_id in [each for each, kind in self._kinds.items() if kind in kinds]:
            del self.wishes[request_id], self._kinds[request_id]


def _who(by: str) -> str:
    return "the operator" if by == "operator" else "the gate: evidence is missing"
