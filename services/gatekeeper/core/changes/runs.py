"""How a run is asked for, begins, waits, goes on and ends."""

from __future__ import annotations

from dataclasses import replace

from services.gatekeeper.config import Policy
from services.gatekeeper.core.changes.onward import advance, end, end_if_stopped
from services.gatekeeper.core.orders import reports_missing
from services.gatekeeper.core.state import Next, RunState, StageState
from shared.config import RunConfig
from shared.events import (
    STAGES,
    CommandRejected,
    OperatorRequested,
    ReportWritten,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunSpec,
    RunStarted,
)


def requested(state: RunState, event: OperatorRequested) -> RunState:
    """An operator asked for something."""
    if event.request == "start_run":
        return _new(state, RunSpec.recorded(event.arguments.get("spec"))) if state.spec is None else state
    if state.spec is None:
        return state
    match event.request:
        case "pause_run":
            return replace(state, pause_wanted=True)
        case "resume_run" if state.finished is not None:
            return replace(state, resume_wanted=True, queued_since=state.sequence)
        case "resume_run":
            return advance(replace(state, pause_wanted=False, resume_wanted=state.paused is not None))
        case "stop_run":
            reason = str(event.arguments.get("reason") or "the operator asked")
            return end_if_stopped(replace(state, stop=reason, pause_wanted=False, resume_wanted=False))
        case "retune_run":
            named, changes = event.arguments.get("stage"), event.arguments.get("changes")
            stage = next((each for each in state.stages.values() if each.stage == named), None)
            if stage is None or not isinstance(changes, dict):
                return state
            return state.with_stage(replace(stage, wish={**stage.wish, **changes}))
    return state


def rejected(state: RunState, _: CommandRejected) -> RunState:
    """An operator was refused."""
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


def queued(state: RunState, _: RunQueued) -> RunState:
    """The run waits behind others."""
    return replace(state, announced=True)


def started(state: RunState, _: RunStarted) -> RunState:
    """The run has the trainer."""
    return advance(replace(state, started=True))


def paused(state: RunState, event: RunPaused) -> RunState:
    """The run waits."""
    wanted = state.pause_wanted and event.by != "operator"
    return replace(state, paused=event.by, pause_wanted=wanted, pauses=event.ordinal)


def resumed(state: RunState, event: RunResumed) -> RunState:
    """The run goes on; at the word of its operator with all budgets anew."""
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
    return advance(
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


def report_written(state: RunState, event: ReportWritten) -> RunState:
    """A report of the ending is there, or cannot be: without a required one the run has not passed."""
    ending = state.ending
    if ending is None or event.ordinal != ending.ordinal:
        return state
    ending = replace(ending, reports={**ending.reports, event.report: event})
    failed = [kind for kind in state.report_kinds if kind in ending.reports and not ending.reports[kind].ok]
    state = replace(state, ending=ending)
    if failed and ending.outcome in ("passed", "stage_completed") and not reports_missing(state, ending):
        why = "; ".join(f"{kind}: {ending.reports[kind].error or 'no reason given'}" for kind in failed)
        return end(replace(state, ending=None), "failed", f"required reports could not be written: {why}")
    return state


def finished(state: RunState, event: RunFinished) -> RunState:
    """The run is over, until it is resumed."""
    return replace(state, finished=event, ending=None, stop=None, pause_wanted=False, paused=None)
