"""How events become state. Recorded decisions are authoritative: nothing is judged here.

Three things are done as soon as the events allow it, so that a crash between a decision and its command loses
nothing: the next chunk becomes a plan, the inference test becomes due, the run begins to end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from services.gatekeeper.config import Policy
from services.gatekeeper.core.detectors import STAGNATION
from services.gatekeeper.core.ladders import halved, rung_after
from services.gatekeeper.core.orders import (
    chunk_command,
    evaluate_command,
    reports_command,
    reports_missing,
    stop_command,
)
from services.gatekeeper.core.state import (
    Accepted,
    Chunk,
    Ending,
    Evaluation,
    Next,
    RunState,
    StageState,
)
from shared.bus.protocol import Recorded
from shared.config import RunConfig
from shared.events import (
    STAGES,
    ArtifactEvidence,
    ChunkDone,
    ChunkEvent,
    ChunkPlan,
    ChunkStarted,
    CommandRejected,
    CommandTimedOut,
    ContinueChunk,
    Document,
    Event,
    EvidenceTimedOut,
    GateDecided,
    GpuEvidence,
    InferenceDone,
    OperatorRequested,
    Reason,
    ReportWritten,
    RestartChunk,
    RetuneChunk,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunSpec,
    RunStarted,
    Schedule,
    Stage,
    StageBlocked,
    StageCompleted,
    StageStarted,
    StartChunk,
    Status,
)


def fold(state: RunState, recorded: Recorded) -> RunState:
    """The state after an event; one whose id was seen, or about a chunk of the past, changes nothing.

    Raises:
        ValidationError: A `start_run` whose specification cannot be used.
    """
    event, sequence = recorded.message, recorded.sequence
    if not isinstance(event, Event) or event.run_id != state.run_id:
        return state
    handler = _HANDLERS.get(type(event))
    message_id = event.id
    if handler is None or message_id in state.seen:
        return state.past(sequence)
    known = state.knowing(message_id, sequence)
    if known.spec is None and not isinstance(event, OperatorRequested):
        return known
    return handler(known, event)


# --- the operator -----------------------------------------------------------------------------------------


def _requested(state: RunState, event: OperatorRequested) -> RunState:
    if event.request == "start_run":
        return _new(state, RunSpec.model_validate(event.arguments["spec"])) if state.spec is None else state
    if state.spec is None:
        return state
    match event.request:
        case "pause_run":
            return replace(state, pause_wanted=True)
        case "resume_run" if state.finished is not None:
            return replace(state, resume_wanted=True, queued_since=state.sequence)
        case "resume_run":
            return _advance(replace(state, pause_wanted=False, resume_wanted=state.paused is not None))
        case "stop_run":
            reason = str(event.arguments.get("reason") or "the operator asked")
            return _end_if_stopped(replace(state, stop=reason, pause_wanted=False, resume_wanted=False))
        case "retune_run":
            stage = state.stages.get(event.arguments.get("stage"))  # type: ignore[call-overload]
            changes = event.arguments.get("changes")
            if stage is None or not isinstance(changes, dict):
                return state
            return state.with_stage(replace(stage, wish={**stage.wish, **changes}))
    return state


def _rejected(state: RunState, _: CommandRejected) -> RunState:
    return state  # its id counts, so that the same request is not answered twice


def _new(state: RunState, spec: RunSpec) -> RunState:
    policy = Policy.recorded(spec.policy.get("gatekeeper", {}))
    configuration = RunConfig.recorded(spec.configuration)
    stages = {}
    for name in (name for name in STAGES if name in spec.stages):
        config = configuration.stage(name)
        given = spec.checkpoints.get(name)
        start = (given, spec.given_steps.get(name, 0)) if given is not None else None
        stages[name] = StageState(
            stage=name,
            target=config.n_updates,
            chunk=policy.chunk.of(name),
            parameters=config.model_dump(mode="json"),
            begin_at=start,
        )
    return replace(
        state,
        spec=spec,
        policy=policy,
        inference=configuration.inference,
        stages=stages,
        queued_since=state.sequence,
    )


# --- start, pause, resume ---------------------------------------------------------------------------------


def _queued(state: RunState, _: RunQueued) -> RunState:
    return replace(state, announced=True)


def _started(state: RunState, _: RunStarted) -> RunState:
    return _advance(replace(state, started=True))


def _paused(state: RunState, event: RunPaused) -> RunState:
    wanted = state.pause_wanted and event.by != "operator"
    return replace(state, paused=event.by, pause_wanted=wanted, pauses=event.ordinal)


def _resumed(state: RunState, event: RunResumed) -> RunState:
    state = replace(state, paused=None, resumes=event.ordinal)
    if event.by == "evidence":
        return state
    stages = {
        name: replace(stage, retries=0, restarts=0, unobserved=0) for name, stage in state.stages.items()
    }
    state = _take_back(replace(state, stages=stages))
    evaluation = state.evaluation
    if evaluation is not None and evaluation.done is None:
        evaluation = replace(evaluation, sending=evaluation.sending.anew())
    return _advance(
        replace(
            state,
            evaluation=evaluation,
            inference_retries=0,
            pause_wanted=False,
            resume_wanted=False,
            stop=None,
            ending=None,
            finished=None,
        )
    )


def _take_back(state: RunState) -> RunState:
    """What becomes of a chunk that the run was ended or paused over: one that is done still has its gate."""
    chunk = state.chunk
    if chunk is None:
        return state
    if chunk.done is not None and chunk.done.reason != "stopped":
        return replace(state, chunk=replace(chunk, waived=chunk.timed_out and bool(chunk.missing)))
    stage, plan = state.stages[chunk.plan.stage], chunk.plan
    wanted = Next(chunk.order, plan.resume_from, plan.start_step, plan.target_step)
    if chunk.done is not None and stage.newest is not None and stage.newest[1] < plan.target_step:
        wanted = replace(wanted, resume_from=stage.newest[0], start_step=stage.newest[1])
    return replace(state.with_stage(replace(stage, next=wanted)), chunk=None)


# --- a stage and its chunks -------------------------------------------------------------------------------


def _stage_started(state: RunState, event: StageStarted) -> RunState:
    stage = state.stages.get(event.stage)
    if stage is None:
        return state
    start, target = event.start_step, event.target_step
    accepted = stage.accepted
    if accepted is None and event.resume_from is not None:  # given: counts as an accepted gate
        accepted = Accepted(start, event.resume_from)
    begun = replace(
        stage,
        ordinal=event.ordinal,
        begun=True,
        target=target,
        accepted=accepted,
        best=stage.best or accepted,
        highest=max(stage.highest, accepted.step if accepted is not None else 0),
        newest=(event.resume_from, start) if event.resume_from is not None else None,
        next=Next(StartChunk, event.resume_from, start, min(start + stage.chunk, target))
        if start < target
        else None,
    )
    return _advance(state.with_stage(begun))


def _chunk_started(state: RunState, event: ChunkStarted) -> RunState:
    return _with_chunk(state, event, started=event)


def _chunk_done(state: RunState, event: ChunkDone) -> RunState:
    chunk = state.chunk
    if not _is_now(chunk, event) or (chunk is not None and chunk.done is not None):
        return state
    state = _with_chunk(state, event, done=event)
    stage = state.stages[event.stage]
    return _end_if_stopped(state.with_stage(replace(stage, newest=_newest(stage, event))))


def _newest(stage: StageState, event: ChunkDone) -> tuple[str, int] | None:
    """The newest valid checkpoint: the one known before, too, if the trainer does not say otherwise."""
    listed = {info.path for info in event.checkpoints}
    known = [(info.path, info.step) for info in event.checkpoints if info.valid]
    if stage.newest is not None and stage.newest[0] not in listed:
        known.append(stage.newest)
    return max(known, key=lambda found: found[1], default=None)


def _gpu(state: RunState, event: GpuEvidence) -> RunState:
    return _with_chunk(state, event, gpu=event)


def _artifacts(state: RunState, event: ArtifactEvidence) -> RunState:
    return _with_chunk(state, event, artifacts=event)


def _evidence_timed_out(state: RunState, event: EvidenceTimedOut) -> RunState:
    return _with_chunk(state, event, timed_out=True)


def _with_chunk(state: RunState, event: ChunkEvent, **changes: Any) -> RunState:
    chunk = state.chunk
    return state.with_chunk(replace(chunk, **changes)) if chunk and _is_now(chunk, event) else state


def _is_now(chunk: Chunk | None, event: ChunkEvent | GateDecided) -> bool:
    """Whether the event is about the chunk that is out: others are fenced off by their attempt."""
    return chunk is not None and (event.stage, event.attempt) == (chunk.plan.stage, chunk.plan.attempt)


# --- gates ------------------------------------------------------------------------------------------------


def _gate(state: RunState, event: GateDecided) -> RunState:
    if event.stage == "inference":
        return _inference_gate(state, event)
    if not _is_now(state.chunk, event):
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
        return _end(state, "stopped", state.stop)
    if event.reason == "stopped":  # the trainer could not go on, and says why
        return _end(state, "failed", "; ".join(reason.text for reason in event.reasons))
    return _advance(state)


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
    order = _ORDERS[event.decision_on_resume or event.decision]
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


def _stage_completed(state: RunState, event: StageCompleted) -> RunState:
    stage = state.stages.get(event.stage)
    if stage is None:
        return state
    return _advance(state.with_stage(replace(stage, completed=True)))


def _stage_blocked(state: RunState, event: StageBlocked) -> RunState:
    reason = f"{event.stage}: {'; '.join(event.blocking_factors)}"
    return _end(replace(state, blocked=None, blocks=event.ordinal), "failed", reason)


# --- inference --------------------------------------------------------------------------------------------


def _inference_done(state: RunState, event: InferenceDone) -> RunState:
    asked = state.evaluation
    if asked is None or asked.done is not None or event.inference_try != asked.number:
        return state
    if not is_usable(event, asked.checkpoints):
        if event.retry != asked.sending.number:  # an older sending's failure, which was answered already
            return state
        if not asked.sending.exhausted(state.policy.max_command_retries):
            return replace(state, evaluation=replace(asked, sending=asked.sending.again()))
    return replace(state, evaluation=replace(asked, done=event), mode=event.mode)


def is_usable(done: InferenceDone, selected: Mapping[Stage, str]) -> bool:
    """Whether the test says something about the models; if not, it is run again rather than they trained."""
    return (
        done.ok
        and done.picture is not None
        and done.gating is not None
        and 0 < done.frames_expected <= done.frames_inferred
        and done.checkpoints == selected
    )


def _inference_gate(state: RunState, event: GateDecided) -> RunState:
    if state.evaluation is None or event.attempt != state.evaluation.number:
        return state
    state = replace(state, evaluation=None, tries=event.attempt, inference_retries=event.retries_used)
    if event.decision == "continue":
        return _advance(replace(state, inference_passed=True, pause_wanted=False))  # nothing left to hold
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
    return _advance(replace(state, blocked=event if event.decision == "stop" else None))


# --- commands nobody answered, and the end ----------------------------------------------------------------


def _command_timed_out(state: RunState, event: CommandTimedOut) -> RunState:
    limit = state.policy.max_command_retries
    chunk, evaluation, ending = state.chunk, state.evaluation, state.ending
    if ending is not None:
        if event.command != reports_command(state, ending).id:
            return state
        if ending.sending.exhausted(limit):
            return replace(state, ending=replace(ending, given_up=True))
        return replace(state, ending=replace(ending, sending=ending.sending.again()))
    if chunk is not None and chunk.done is None:
        if event.command == stop_command(state.run_id, chunk).id and state.stop is not None:
            return _end(state, "stopped", f"{state.stop}; the trainer did not answer")
        if event.command != chunk_command(state.run_id, chunk).id or chunk.started is not None:
            return state
        if state.stop is not None:
            return _end(state, "stopped", state.stop)
        if chunk.sending.exhausted(limit):
            plan = chunk.plan
            asked = f"the trainer did not begin {plan.stage} attempt {plan.attempt}"
            return _end(state, "failed", f"{asked}, asked {limit + 1} times")
        return replace(state, chunk=replace(chunk, sending=chunk.sending.again()))
    if evaluation is not None and evaluation.done is None:
        if event.command != evaluate_command(state, evaluation).id:
            return state
        if evaluation.sending.exhausted(limit):
            asked = f"the inference service did not answer for test {evaluation.number}"
            return _end(state, "failed", f"{asked}, asked {limit + 1} times")
        return replace(state, evaluation=replace(evaluation, sending=evaluation.sending.again()))
    return state


def _report_written(state: RunState, event: ReportWritten) -> RunState:
    ending = state.ending
    if ending is None or event.ordinal != ending.ordinal:
        return state
    ending = replace(ending, reports={**ending.reports, event.report: event})
    failed = [kind for kind in state.report_kinds if kind in ending.reports and not ending.reports[kind].ok]
    state = replace(state, ending=ending)
    if failed and ending.outcome in ("passed", "stage_completed") and not reports_missing(state, ending):
        why = "; ".join(f"{kind}: {ending.reports[kind].error or 'no reason given'}" for kind in failed)
        return _end(replace(state, ending=None), "failed", f"required reports could not be written: {why}")
    return state


def _finished(state: RunState, event: RunFinished) -> RunState:
    return replace(state, finished=event, ending=None, stop=None, pause_wanted=False, paused=None)


# --- what follows by itself -------------------------------------------------------------------------------


def _end(state: RunState, outcome: Status, reason: str) -> RunState:
    ending = Ending(outcome, reason, state.ends + 1)
    return replace(state, ending=ending, ends=ending.ordinal, blocked=None, pause_wanted=False)


def _end_if_stopped(state: RunState) -> RunState:
    """Begin to end a run that was asked to stop, unless a chunk has yet to say that it did."""
    if state.stop is None or state.ending is not None or state.finished is not None:
        return state
    chunk = state.chunk
    if chunk is not None and (chunk.done is None or chunk.done.reason == "stopped"):
        return state
    return _end(state, "stopped", state.stop)


def _advance(state: RunState) -> RunState:
    """Make the next chunk a plan, or the inference test due, or begin to end; if nothing is in the way."""
    waits = state.pause_wanted or state.paused or state.stop is not None or state.blocked
    if not state.started or state.finished or state.ending or waits or state.chunk or state.evaluation:
        return state
    stage = state.current
    if stage is not None:
        return _issue(state, stage, stage.next) if stage.begun and stage.next is not None else state
    assert state.spec is not None
    if not state.spec.inference:
        return _end(state, "stage_completed", "every stage reached its target healthy")
    if state.inference_passed:
        return _end(state, "passed", "the inference gate passed")
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


_ORDERS: dict[str, type[StartChunk | ContinueChunk | RetuneChunk | RestartChunk]] = {
    "continue": ContinueChunk,
    "retune": RetuneChunk,
    "restart_stage": RestartChunk,
}
"""The decision that a chunk follows -> what the trainer is asked for."""

_HANDLERS: dict[type[Event], Callable[[RunState, Any], RunState]] = {
    OperatorRequested: _requested,
    CommandRejected: _rejected,
    RunQueued: _queued,
    RunStarted: _started,
    RunPaused: _paused,
    RunResumed: _resumed,
    StageStarted: _stage_started,
    ChunkStarted: _chunk_started,
    ChunkDone: _chunk_done,
    GpuEvidence: _gpu,
    ArtifactEvidence: _artifacts,
    EvidenceTimedOut: _evidence_timed_out,
    GateDecided: _gate,
    StageCompleted: _stage_completed,
    StageBlocked: _stage_blocked,
    InferenceDone: _inference_done,
    CommandTimedOut: _command_timed_out,
    ReportWritten: _report_written,
    RunFinished: _finished,
}
