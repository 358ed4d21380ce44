"""What follows by itself, as soon as nothing is in the way: the next plan, the inference test, the end."""

from __future__ import annotations

from dataclasses import replace

from services.gatekeeper.core.state import Chunk, Ending, Evaluation, Next, RunState, StageState
from shared.events import ChunkPlan, Schedule, Stage, Status


def end(state: RunState, outcome: Status, reason: str) -> RunState:
    """Begin to end a run."""
    ending = Ending(outcome, reason, state.ends + 1)
    return replace(state, ending=ending, ends=ending.ordinal, blocked=None, pause_wanted=False)


def end_if_stopped(state: RunState) -> RunState:
    """Begin to end a run that was asked to stop, unless a chunk has yet to say that it did."""
    if state.stop is None or state.ending is not None or state.finished is not None:
        return state
    chunk = state.chunk
    if chunk is not None and (chunk.done is None or chunk.done.reason == "stopped"):
        return state
    return end(state, "stopped", state.stop)


def advance(state: RunState) -> RunState:
    """Make the next chunk a plan, or the inference test due, or begin to end; if nothing is in the way."""
    waits = state.pause_wanted or state.paused or state.stop is not None or state.blocked
    if not state.started or state.finished or state.ending or waits or state.chunk or state.evaluation:
        return state
    stage = state.current
    if stage is not None:
        return _issue(state, stage, stage.next) if stage.begun and stage.next is not None else state
    assert state.spec is not None
    if not state.spec.inference:
        return end(state, "stage_completed", "every stage reached its target healthy")
    if state.inference_passed:
        return end(state, "passed", "the inference gate passed")
    return replace(state, evaluation=Evaluation(state.tries + 1, state.selected))


def _issue(state: RunState, stage: StageState, wanted: Next) -> RunState:
    parameters = {**stage.parameters, **stage.wish, "n_updates": stage.target}
    lowered = stage.batch > 1 and parameters["batch_size_per_gpu"] == 1
    newest = (wanted.resume_from, wanted.start_step) if wanted.resume_from is not None else None
    stage = (
        replace(  # what lies beyond the plan's start is superseded, checkpoints and segments of the schedule
            stage,
            parameters=parameters,
            wish={},
            attempt=stage.attempt + 1,
            next=None,
            newest=newest,
            segment_start=min(stage.segment_start, wanted.start_step),
        )
    )
    checkout = state.spec is not None and state.spec.backend == "checkout"
    plan = ChunkPlan(
        stage=stage.stage,
        attempt=stage.attempt,
        start_step=wanted.start_step,
        target_step=wanted.target_step,
        schedule=Schedule(peak=stage.learning_rate, start_step=stage.segment_start, end_step=stage.target),
        parameters=parameters,
        resume_from=wanted.resume_from,
        upstream=_upstream(state, stage.stage),
        ends_stage=wanted.target_step >= stage.target,
        overshoot=int(stage.knob("log_interval")) - 1 if checkout else 0,
    )
    state = replace(state.with_stage(stage), degraded=state.degraded or lowered)
    return replace(state, chunk=Chunk(plan, wanted.order))


def _upstream(state: RunState, stage: Stage) -> dict[Stage, str]:
    if stage != "dynamics":
        return {}
    return {name: path for name, path in state.selected.items() if name != "dynamics"}
