"""The stages' rows: how far each is, how fast, what its ladder and its budget have left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from services.reporter.core.page.gates import file_link, optional_link
from services.reporter.core.page.ladder import SHOWN, budget, climbed, rungs
from services.reporter.core.page.model import StageRow, StageState
from services.reporter.core.page.table import Table
from shared.config import KNOBS
from shared.events import (
    ArtifactEvidence,
    ChunkDone,
    ChunkStarted,
    Event,
    GateDecided,
    GateStage,
    InferenceDone,
    RunFinished,
    RunPaused,
    RunResumed,
    RunSpec,
    Stage,
    StageBlocked,
    StageCompleted,
    StageStarted,
    TrainProgress,
)

ORDER: tuple[GateStage, ...] = get_args(GateStage)
LATEST = 1e11
"""Unix time, in the year 5138: an end that is later is none that anybody waits for."""


@dataclass(slots=True)
class _Known:
    """What the events said of a stage."""

    parameters: dict[str, Any] = field(default_factory=dict)
    ranks: int = 1
    begun: bool = False


class Stages:
    """The rows of the three stages and of the inference gate."""

    def __init__(self) -> None:
        self.table: Table[StageRow] = Table()
        self.spec: RunSpec | None = None
        self._known: dict[GateStage, _Known] = {stage: _Known() for stage in ORDER}
        self._current: GateStage | None = None
        self._before_pause: StageState = "waiting"

    @property
    def current(self) -> GateStage | None:
        """The stage that is worked on, or was when the run ended; none before the first."""
        return self._current

    @property
    def knobs(self) -> dict[str, Any] | None:
        """The knobs of the stage that a retune would patch; none when no stage is left to train."""
        if self.spec is None:
            return None
        left = [
            stage
            for stage in ORDER
            if stage in self.spec.stages and self._row(stage).state not in ("complete", "given")
        ]
        if not left:
            return None
        parameters = self._known[left[0]].parameters
        return {key: parameters[key] for key in KNOBS if key in parameters}

    @property
    def trained(self) -> bool:
        """Whether all stages that were asked for have reached their targets."""
        spec = self.spec
        return spec is not None and all(self._row(stage).state == "complete" for stage in spec.stages)

    def eta(self) -> float | None:
        """Unix time when the last stage's target is reached; none where a speed is not known."""
        if self.spec is None or self._current is None:
            return None
        eta: float | None = None
        for stage in self.spec.stages:
            row = self._row(stage)
            if row.state == "complete":
                continue
            if stage == self._current and row.eta is not None:
                eta = row.eta
            elif eta is not None and row.updates_per_sec:
                eta += (row.target - row.step) / row.updates_per_sec
            else:
                return None
        return _awaited(eta)

    def begin(self, spec: RunSpec) -> None:
        """What the run is to do is known."""
        if self.spec is not None:
            return
        self.spec = spec
        for stage in ORDER:
            self._known[stage].parameters = _parameters(spec, stage)
            self.table.put(_first_row(spec, stage, self._known[stage].parameters))

    def take(self, event: Event) -> None:
        """Fold an event in."""
        if self.spec is None:
            return
        match event:
            case StageStarted():
                self._current = event.stage
                self._known[event.stage].begun = True
                self._put(
                    event.stage,
                    state="waiting",
                    step=event.start_step,
                    target=event.target_step,
                    eta=None,
                    **({"accepted_step": event.start_step} if event.resume_from is not None else {}),
                )
            case ChunkStarted():
                self._launch(event)
            case ChunkDone(stage=stage, end_step=end):
                self._put(stage, state="at gate", step=end)
            case ArtifactEvidence(stage=stage, history=history) if history is not None:
                fresh = {
                    "loss": history.final_loss,
                    "learning_rate": history.learning_rate,
                    "frames_per_sec": history.frames_per_sec,
                }
                told = {key: value for key, value in fresh.items() if value is not None}
                self._put(stage, **told)
                self._speed(stage, history.frames_per_sec)
            case GateDecided():
                self._decide(event)
            case StageCompleted(stage=stage, step=step):
                links = {"checkpoint": file_link(event.checkpoint), "best": file_link(event.best_checkpoint)}
                self._put(stage, state="complete", step=step, eta=None, **links)
                if self.trained and self.spec.inference:
                    self._test()
            case StageBlocked(stage=stage):
                self._put(stage, state="blocked", eta=None)
            case InferenceDone():
                self._current = "inference"
                self._put("inference", state="at gate")
            case RunPaused() if self._current is not None:
                self._before_pause = self._row(self._current).state
                self._put(self._current, state="paused", eta=None)
            case RunResumed():
                self._resume(event)
            case RunFinished():
                for row in self.table.rows:
                    begun = row.state in ("training", "at gate") or (
                        row.state == "waiting" and self._known[row.stage].begun
                    )
                    self._put(row.stage, eta=None, **({"state": "paused"} if begun else {}))
            case _:
                pass

    def start_test(self) -> None:
        """The run has begun, and nothing is to be trained."""
        if self.trained and self.spec is not None and self.spec.inference:
            self._test()

    def progress(self, message: TrainProgress, time: float) -> None:
        """Training went on; what comes late, of an older attempt, changes nothing."""
        row = self.table.get(message.stage)
        if row is None or row.state != "training" or row.attempt != message.attempt:
            return
        self._put(
            message.stage,
            step=message.step,
            loss=message.loss,
            learning_rate=message.learning_rate,
            frames_per_sec=message.frames_per_sec,
            eta=_awaited(time + message.eta_sec) if message.eta_sec > 0 else None,
        )
        self._speed(message.stage, message.frames_per_sec)

    def _launch(self, event: ChunkStarted) -> None:
        known, plan = self._known[event.stage], event.plan
        known.parameters, known.ranks, known.begun = (
            known.parameters | plan.parameters,
            event.world_size,
            True,
        )
        self._current = event.stage
        at = plan.start_step if event.resume_step is None else event.resume_step
        self._put(
            event.stage,
            state="training",
            attempt=event.attempt,
            step=at,
            chunk_target=plan.target_step,
            eta=None,
        )

    def _decide(self, gate: GateDecided) -> None:
        row, known = self._row(gate.stage), self._known[gate.stage]
        if gate.stage == "inference":
            changes: dict[str, Any] = {
                "attempt": gate.attempt,
                "state": "complete" if gate.decision == "continue" else "waiting",
            }
        else:
            climbs = climbed(gate, known.parameters, row.target)
            changes = {
                "state": "at gate" if gate.decision == "stop" else "waiting",
                "step": gate.resume_step,
                "target": gate.target_step,
                "chunk_target": gate.next_target_step,
                "restarts_used": gate.restarts_used,
                "climbed": [*row.climbed, *climbs][-SHOWN:],
                "eta": None,
            }
            if gate.accepted_checkpoint is not None:
                changes |= {
                    "accepted_step": gate.resume_step,
                    "checkpoint": file_link(gate.accepted_checkpoint),
                }
            elif gate.decision == "restart_stage":
                changes |= {"accepted_step": gate.resume_step, "checkpoint": optional_link(gate.resume_from)}
            if gate.best_checkpoint is not None:
                changes["best"] = file_link(gate.best_checkpoint)
            known.parameters = known.parameters | gate.config_patch_applied
        self._put(
            gate.stage,
            gates=row.gates + 1,
            retries_used=gate.retries_used,
            retries_max=gate.retries_max,
            **changes,
        )
        if gate.stage == "inference" and gate.next_target_step is not None and gate.decision != "stop":
            known = self._known["dynamics"]
            known.parameters = known.parameters | gate.config_patch_applied

    def _resume(self, event: RunResumed) -> None:
        if event.by == "operator":
            for row in self.table.rows:
                self._put(row.stage, retries_used=0, restarts_used=0)
        stage = self._current
        if stage is None or self._row(stage).state not in ("paused", "blocked"):
            return
        self._put(stage, state="at gate" if self._before_pause == "at gate" else "waiting")

    def _test(self) -> None:
        self._current = "inference"
        self._put("inference", state="at gate")

    def _speed(self, stage: Stage, frames_per_sec: float | None) -> None:
        known = self._known[stage]
        keys = ("batch_size_per_gpu", "gradient_accumulation_steps", "context_length")
        frames = known.ranks
        for key in keys:
            frames *= known.parameters.get(key) or 0
        if frames and frames_per_sec:
            self._put(stage, updates_per_sec=frames_per_sec / frames)

    def _row(self, stage: GateStage) -> StageRow:
        row = self.table.get(stage)
        assert row is not None
        return row

    def _put(self, stage: GateStage, **changes: Any) -> None:
        self.table.update(stage, **changes)


def _parameters(spec: RunSpec, stage: GateStage) -> dict[str, Any]:
    parts = (spec.configuration.get("training"), spec.configuration.get(stage))
    found: dict[str, Any] = {}
    for part in parts:
        found |= part if isinstance(part, dict) else {}
    return found


def _first_row(spec: RunSpec, stage: GateStage, parameters: Mapping[str, Any]) -> StageRow:
    asked = spec.inference if stage == "inference" else stage in spec.stages
    given = spec.checkpoints.get(stage) if stage != "inference" else None
    step = spec.given_steps.get(stage, 0) if stage != "inference" else 0
    target = parameters.get("n_updates") if asked else step
    inference = stage == "inference"
    return StageRow(
        id=stage,
        stage=stage,
        state="waiting" if asked else "given" if given is not None else "not asked for",
        step=step,
        accepted_step=step,
        chunk_target=None,
        target=target if isinstance(target, int) else 0,
        attempt=0,
        gates=0,
        loss=None,
        learning_rate=None,
        updates_per_sec=None,
        frames_per_sec=None,
        eta=None,
        retries_used=0,
        retries_max=budget(spec.policy, "max_inference_retries" if inference else "max_retries"),
        restarts_used=0,
        restarts_max=0 if inference else budget(spec.policy, "max_restarts"),
        rungs=rungs(spec.policy, stage) if asked else [],
        climbed=[],
        checkpoint=optional_link(given),
        best=None,
    )


def _awaited(eta: float | None) -> float | None:
    return eta if eta is not None and eta < LATEST else None
