"""Goodput: where a run's time went. Our own definition, folded from events; the kinds of time add up.

Of the wall time since `run_started`, *training* is the time of updates that led to the weights a stage has
now; everything else is named by what was done instead:

- A launch is *starting* until its first update begins, as is all time between a decision and the next
  `chunk_started`. From the first update to the last it trains, but for the checkpoints in between, each of
  which is taken to cost as much as the chunk's last; from the last update to `chunk_done` is *checkpoint*.
- A chunk's training time is spread evenly over its updates. Those that a gate rolls back (see
  `core.lineage`) move from training to *redone*. Of launches that died, what a later launch did not go on
  from is redone as well; how long it took is known from the updates of the launch that came through.
- *gate* is from `chunk_done` or `inference_done` to the decision; *waiting* while evidence or an answer is
  overdue; *inference*, *reports* and *paused* are what they say.
- After `run_finished` no time counts, unless the run is resumed: then it was paused meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from services.reporter.core.page.branches import Branch
from services.reporter.core.page.model import Goodput, Spent
from shared.events import (
    ArtifactEvidence,
    ChunkDone,
    ChunkStarted,
    CommandTimedOut,
    Event,
    EvidenceTimedOut,
    GateDecided,
    GpuEvidence,
    InferenceDone,
    ReportWritten,
    RunFinished,
    RunPaused,
    RunResumed,
    RunStarted,
    Stage,
    StageBlocked,
    StageCompleted,
    StageStarted,
)

Kind = Literal[
    "training", "redone", "gate", "checkpoint", "starting", "inference", "reports", "paused", "waiting"
]
MEANINGS: dict[Kind, str] = {
    "training": "updates that led to the weights there are now",
    "redone": "updates that were rolled back or lost with a process, and trained again",
    "gate": "measuring and deciding",
    "checkpoint": "writing checkpoints and pictures",
    "starting": "from a decision to the first update",
    "inference": "the inference test",
    "reports": "writing reports",
    "paused": "paused by the operator, or ended and resumed",
    "waiting": "for evidence or an answer that is overdue",
}
DEFINITION = (
    "Useful training time over all time since the run started. Useful is the wall time of updates that led "
    "to the weights there are now: without starting, checkpoints, gates, and updates trained again."
)
assert tuple(MEANINGS) == get_args(Kind)


@dataclass(slots=True)
class _Open:
    """A chunk in work."""

    stage: Stage
    attempt: int
    start_step: int
    log_interval: int
    launches: list[float]
    """Unix times."""
    resumed_at: int
    """Updates done that the newest launch goes on from."""
    updating: float | None = None
    """When the newest launch was first heard to train."""


@dataclass(slots=True)
class Times:
    """Adds up where the time goes. Times are unix seconds; one older than the last counts as the last."""

    began: float | None = None
    totals: dict[Kind, float] = field(default_factory=lambda: dict.fromkeys(MEANINGS, 0.0))
    _phase: Kind = "starting"
    _since: float = 0.0
    _ended: bool = False
    _before_pause: Kind = "starting"
    _open: _Open | None = None
    _branches: dict[Stage, Branch[float]] = field(default_factory=dict)
    """Per stage, training seconds of the updates that count."""
    _done: dict[Stage, tuple[ChunkDone, float]] = field(default_factory=dict)
    """The newest chunk of a stage that has no gate yet, and its training seconds."""
    _left: set[Stage] = field(default_factory=set)
    _inference: bool = True

    def heard(self, stage: Stage, attempt: int, time: float) -> None:
        """An update was made."""
        chunk = self._open
        if chunk is not None and (chunk.stage, chunk.attempt) == (stage, attempt) and chunk.updating is None:
            chunk.updating = time

    def take(self, event: Event, time: float) -> None:
        """Fold an event in."""
        if isinstance(event, RunStarted):
            self._start(event, time)
        if self.began is None:
            return
        match event:
            case ChunkStarted():
                self._launch(event, time)
            case ChunkDone():
                self._finish(event, time)
            case GateDecided():
                self._decide(event, time)
            case StageStarted():
                self._turn("starting", time)
            case StageCompleted(stage=stage):
                self._left.discard(stage)
                last: Kind = "inference" if self._inference else "reports"
                self._turn("starting" if self._left else last, time)
            case StageBlocked() | ReportWritten():
                self._turn("reports", time)
            case InferenceDone():
                self._turn("gate", time)
            case EvidenceTimedOut() | CommandTimedOut():
                self._turn("waiting", time)
            case GpuEvidence() | ArtifactEvidence() if self._phase == "waiting":
                self._turn("gate", time)
            case RunPaused(by=by):
                self._before_pause = self._phase if self._phase in ("gate", "inference") else "starting"
                self._turn("paused" if by == "operator" else "waiting", time)
            case RunResumed():
                self._turn("starting" if self._ended else self._before_pause, time)
                self._ended = False
            case RunFinished():
                self._turn("paused", time)
                self._ended = True
            case _:
                pass

    def goodput(self, now: float) -> Goodput:
        """Where the time went until now, or until the run's end."""
        totals = dict(self.totals)
        if self.began is not None and not self._ended:
            for kind, seconds in self._so_far(max(now, self._since)).items():
                totals[kind] += seconds
        whole = sum(totals.values())
        spent = [Spent(name=kind, seconds=totals[kind], meaning=text) for kind, text in MEANINGS.items()]
        fraction = totals["training"] / whole if whole > 0 else None
        return Goodput(fraction=fraction, definition=DEFINITION, spent=spent)

    def _so_far(self, now: float) -> dict[Kind, float]:
        """What was done since the last event that closed something, as far as can be told."""
        chunk = self._open
        if chunk is None:
            return {self._phase: now - self._since}
        last = min(chunk.launches[-1], now)
        updating = now if chunk.updating is None else min(max(chunk.updating, last), now)
        return {"redone": last - self._since, "starting": updating - last, "training": now - updating}

    def _turn(self, phase: Kind, time: float) -> float:
        """Close what was done until now, and begin something else; the time it is."""
        time = max(time, self._since)
        for kind, seconds in self._so_far(time).items():
            self.totals[kind] += seconds
        self._since, self._phase, self._open = time, phase, None
        return time

    def _start(self, event: RunStarted, time: float) -> None:
        if self.began is None:
            self.began = self._since = time
        self._left, self._inference = set(event.spec.stages), event.spec.inference
        self._turn("starting" if self._left else "inference", time)

    def _launch(self, event: ChunkStarted, time: float) -> None:
        chunk, plan = self._open, event.plan
        if chunk is not None and (chunk.stage, chunk.attempt) == (event.stage, event.attempt):
            chunk.launches.append(max(time, chunk.launches[-1]))
            chunk.updating = None
        else:
            time = self._turn("starting", time)
            interval = plan.parameters.get("log_interval")
            chunk = _Open(
                event.stage,
                event.attempt,
                plan.start_step,
                interval if isinstance(interval, int) and interval > 0 else 0,
                [time],
                plan.start_step,
            )
            self._open = chunk
        chunk.resumed_at = plan.start_step if event.resume_step is None else event.resume_step

    def _finish(self, done: ChunkDone, time: float) -> None:
        chunk = self._open
        if chunk is None or (chunk.stage, chunk.attempt) != (done.stage, done.attempt):
            self._turn("gate", time)
            return
        time, last = max(time, chunk.launches[-1]), chunk.launches[-1]
        first = min(max(done.timing.get("first_update_begin", last), last), time)
        end = min(max(done.timing.get("last_update_end", time), first), time)
        saving = max(0.0, done.timing.get("checkpoint", 0.0) + done.timing.get("visualization", 0.0))
        between = min(end - first, saving * _saves_between(chunk, done))
        training = end - first - between
        updates, kept = done.end_step - chunk.resumed_at, chunk.resumed_at - chunk.start_step
        lost = last - self._since
        useful = min(lost, training / updates * kept) if updates > 0 and kept > 0 else 0.0
        self.totals["starting"] += first - last
        self.totals["training"] += training + useful
        self.totals["checkpoint"] += between + time - end
        self.totals["redone"] += lost - useful
        self._done[done.stage] = (done, training + useful)
        self._since, self._phase, self._open = time, "gate", None

    def _decide(self, gate: GateDecided, time: float) -> None:
        if gate.decision == "stop" or (gate.stage == "inference" and gate.decision == "continue"):
            self._turn("reports", time)
        else:
            self._turn("starting", time)
        if gate.stage == "inference" or gate.stage not in self._done:
            return
        done, seconds = self._done.pop(gate.stage)
        branch = self._branches.setdefault(gate.stage, Branch())
        cuts = branch.grow(done.attempt, done.start_step, done.end_step, seconds)
        if gate.accepted_checkpoint is None:
            cuts += branch.cut(gate.resume_step)
        for cut in cuts:
            lost = min(cut.value * cut.share, self.totals["training"])
            self.totals["training"] -= lost
            self.totals["redone"] += lost


def _saves_between(chunk: _Open, done: ChunkDone) -> int:
    """Checkpoints before the chunk's last that the newest launch has written."""
    if not chunk.log_interval or done.end_step <= chunk.resumed_at:
        return 0
    return (done.end_step - 1) // chunk.log_interval - chunk.resumed_at // chunk.log_interval
