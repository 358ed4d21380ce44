"""What a decided gate makes of its stage, and of the run."""

from __future__ import annotations

from dataclasses import replace

from services.gatekeeper.core.changes.chunks import is_now
from services.gatekeeper.core.changes.onward import advance, end
from services.gatekeeper.core.detectors import STAGNATION
from services.gatekeeper.core.ladders import halved, rung_after
from services.gatekeeper.core.state import Accepted, Next, RunState, StageState
from shared.errors import MessageError
from shared.events import (
    ContinueChunk,
    Document,
    GateDecided,
    Reason,
    RestartChunk,
    RetuneChunk,
    StageBlocked,
    StageCompleted,
    StartChunk,
)


def decided(state: RunState, event: GateDecided) -> RunState:
    """A gate was decided: of the chunk that is out, or of the inference test."""
    if event.stage == "inference":
        return _inference_gate(state, event)
    if not is_now(state.chunk, event):
        return state
    stage = state.stages[event.stage]
    accepted, best, highest = stage.accepted, stage.best, stage.highest
    if event.accepted_checkpoint is not None:
        accepted = Accepted(
            event.resume_step,
            event.accepted_checkpoint,
            late=event.metrics.get("late"),
            last10=event.metrics.get("last10"),
        )
        best = accepted if event.best_checkpoint == event.accepted_checkpoint else best
        highest = max(highest, accepted.step)
    assert state.chunk is not None
    plan = state.chunk.plan
    parameters = _patched(stage, event)
    restarts = "restart_stage" in (event.decision, event.decision_on_resume)
    initial = event.metrics.get("level_first")
    visual = next((reason for reason in event.reasons if reason.check == 7), None)
    stagnant = next((reason for reason in event.reasons if reason.name == STAGNATION), None)
    stage = replace(
        stage,
        target=event.target_step,
        chunk=_chunk_length(state, stage, event, {**parameters, **event.config_patch_on_resume}),
        parameters=parameters,
        wish=dict(event.config_patch_on_resume)
        if event.next_target_step is not None
        else stage.wish,  # dynamics may be trained again
        accepted=accepted,
        best=best,
        highest=highest,
        next=_next(event),
        retries=event.retries_used,
        restarts=event.restarts_used,
        restarted_from=stage.restarted_from | ({event.resume_from} if event.resume_from else set())
        if restarts
        else stage.restarted_from,
        extensions=stage.extensions + ("target" in event.ladder),
        rung=0 if highest > stage.highest else rung_after(stage.rung, event.ladder),
        visual_failures=_in_a_row(stage.visual_failures, visual),
        stagnant_gates=_in_a_row(stage.stagnant_gates, stagnant),
        initial_level=initial if plan.resume_from is None else stage.initial_level,
        pace=_pace(stage, event),
        unobserved=0
        if event.accepted_checkpoint is not None
        else stage.unobserved + (event.reason == "gpu_unobserved"),
    )
    state = replace(
        state.with_stage(_fallen(stage, event.resume_from, event.resume_step)),
        chunk=None,
        degraded=state.degraded or event.degraded,
        blocked=event if event.decision == "stop" and event.reason != "stopped" else None,
    )
    if event.reason == "stopped" and state.stop is not None:
        return end(state, "stopped", state.stop)
    if event.reason == "stopped":  # the trainer could not go on, and says why
        return end(state, "failed", "; ".join(reason.text for reason in event.reasons))
    return advance(state)


def _in_a_row(count: int, reason: Reason | None) -> int:
    """Gates in a row at which a reason was not ok; where it was not measured, the count stands."""
    if reason is None:
        return count
    return 0 if reason.ok else count + 1


def _pace(stage: StageState, event: GateDecided) -> dict[int, float]:
    seconds, batch = event.metrics.get("update_seconds"), event.effective_batch
    if seconds is None:
        return dict(stage.pace)
    return {**stage.pace, batch: min(seconds, stage.pace.get(batch, seconds))}


def _patched(stage: StageState, event: GateDecided) -> Document:
    """The stage's parameters from here on; what waits for a resume is a wish until then."""
    return {**stage.parameters, **event.config_patch_applied, "n_updates": event.target_step}


def _chunk_length(state: RunState, stage: StageState, event: GateDecided, parameters: Document) -> int:
    if event.accepted_checkpoint is not None:
        return state.policy.chunk.of(stage.stage)
    log_interval = parameters["log_interval"]
    assert isinstance(log_interval, int)
    return halved(stage.chunk, log_interval) if "chunk" in event.ladder else stage.chunk


def _next(event: GateDecided) -> Next | None:
    if event.next_target_step is None:
        return None
    order = _ORDERS.get(event.decision_on_resume or event.decision)
    if order is None:
        raise MessageError(f"{event.id}: decision_on_resume: after {event.decision}, a next target needs one")
    return Next(order, event.resume_from, event.resume_step, event.next_target_step)


def _fallen(stage: StageState, resume_from: str | None, resume_step: int) -> StageState:
    """The stage when it goes on from before its accepted gate: what lies beyond is superseded."""
    if stage.accepted is None or stage.accepted.step <= resume_step:
        return stage
    best = stage.best if stage.best is not None and stage.best.step <= resume_step else None
    if resume_from is None:
        return replace(stage, accepted=None, best=None, newest=None)
    if best is not None and best.checkpoint == resume_from:
        return replace(stage, accepted=best, best=best)
    return replace(stage, accepted=Accepted(resume_step, resume_from), best=best)


def _inference_gate(state: RunState, event: GateDecided) -> RunState:
    if state.evaluation is None or event.attempt != state.evaluation.number:
        return state
    state = replace(state, evaluation=None, tries=event.attempt, inference_retries=event.retries_used)
    if event.decision == "continue":
        return advance(replace(state, inference_passed=True, pause_wanted=False))  # nothing left to hold
    if event.next_target_step is not None:
        stage = state.stages["dynamics"]
        again = replace(
            stage,
            completed=False,
            begun=False,
            begin_at=(event.resume_from, event.resume_step) if event.resume_from is not None else None,
            target=event.target_step,
            segment_start=event.resume_step,
            parameters=_patched(stage, event),
            wish=dict(event.config_patch_on_resume),
            next=None,
        )
        state = replace(state.with_stage(again), inference_failures=state.inference_failures + 1)
    return advance(replace(state, blocked=event if event.decision == "stop" else None))


def stage_completed(state: RunState, event: StageCompleted) -> RunState:
    """The stage is done with."""
    stage = state.stages.get(event.stage)
    if stage is None:
        return state
    return advance(state.with_stage(replace(stage, completed=True)))


def stage_blocked(state: RunState, event: StageBlocked) -> RunState:
    """The budget is spent: the run ends, with its reports."""
    reason = f"{event.stage}: {'; '.join(event.blocking_factors)}"
    return end(replace(state, blocked=None, blocks=event.ordinal), "failed", reason)


_ORDERS: dict[str, type[StartChunk | ContinueChunk | RetuneChunk | RestartChunk]] = {
    "continue": ContinueChunk,
    "retune": RetuneChunk,
    "restart_stage": RestartChunk,
}
"""The decision that a chunk follows -> what the trainer is asked for."""
