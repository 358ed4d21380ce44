"""The pipeline's state machine: which events come next, given everything the gatekeeper knows.

`decide` is asked until it has nothing to say; then `commands` (of `orders`) says what is outstanding, and
`waiting` (of `limits`) for how long.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.gatekeeper.core.gate import judge, needs_operator
from services.gatekeeper.core.inference_gate import judge_inference
from services.gatekeeper.core.orders import commands, reports_missing
from services.gatekeeper.core.state import Chunk, Ending, RunState, StageState
from shared.events import (
    Event,
    GateDecided,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    StageBlocked,
    StageCompleted,
    StageStarted,
)

__all__ = ["commands", "decide"]


def decide(state: RunState, ahead: Sequence[str] = ()) -> list[Event]:
    """The events to append now; nothing when the run waits for somebody.

    Args:
        state: The run, all its events folded.
        ahead: Unfinished runs before it in the queue; while there are any, only a run that is ending goes on.
    """
    spec, run_id = state.spec, state.run_id
    if spec is None or not state.unfinished:
        return []
    known = state.started or state.announced
    if (ahead or state.ending is not None) and not known:  # announced, even if it ends before it began
        return [RunQueued(run_id=run_id, spec=spec, behind=list(ahead))]
    if state.ending is not None:
        return _finish(state, state.ending)
    if ahead:
        return []
    if not state.started:
        return [RunStarted(run_id=run_id, spec=spec)]
    if state.resume_wanted:
        return [_resumed(state, by_operator=True, reason="the operator asked")]
    if state.paused is not None:
        return _while_paused(state)
    if state.blocked is not None:
        return [_blocked(state, state.blocked)]
    if state.chunk is not None:
        return _at_gate(state, state.chunk)
    if state.evaluation is not None:
        return [judge_inference(state)] if state.evaluation.done is not None else []
    if state.pause_wanted:
        return [_paused(state, by_operator=True, reason="the operator asked")]
    return _next_stage(state, state.current) if state.current is not None else []


def _at_gate(state: RunState, chunk: Chunk) -> list[Event]:
    if chunk.done is None:
        return []
    if chunk.done.reason == "stopped" or chunk.waived:
        return [judge(state)]
    if chunk.missing:
        if not chunk.timed_out:
            return []
        return [_paused(state, by_operator=False, reason=f"waiting for {', '.join(chunk.missing)}")]
    if needs_operator(state):
        reason = "nobody watched the GPUs, twice at this gate: see to the monitor, then resume"
        return [_paused(state, by_operator=False, reason=reason)]
    return [judge(state)]


def _while_paused(state: RunState) -> list[Event]:
    if state.paused == "operator":
        return []
    if state.pause_wanted:
        return [_paused(state, by_operator=True, reason="the operator asked")]
    chunk = state.chunk
    if chunk is not None and not chunk.missing and not needs_operator(state):
        return [_resumed(state, by_operator=False, reason="the evidence came")]
    return []


def _next_stage(state: RunState, stage: StageState) -> list[Event]:
    if not stage.begun:
        resume_from, start = stage.begin_at or (None, 0)
        return [
            StageStarted(
                run_id=state.run_id,
                stage=stage.stage,
                start_step=start,
                target_step=stage.target,
                resume_from=resume_from,
                ordinal=stage.ordinal + 1,
            )
        ]
    accepted, best = stage.accepted, stage.best
    if stage.next is not None or accepted is None or accepted.step < stage.target:
        return []
    return [
        StageCompleted(
            run_id=state.run_id,
            stage=stage.stage,
            step=accepted.step,
            checkpoint=accepted.checkpoint,
            best_checkpoint=(best or accepted).checkpoint,
            ordinal=stage.ordinal,
        )
    ]


def _blocked(state: RunState, gate: GateDecided) -> StageBlocked:
    failed = {reason.name: reason.text for reason in gate.reasons if not reason.ok}
    told = (text for name, text in failed.items() if f"{name}_watch" not in failed)
    factors = dict.fromkeys(told)  # of two limits that a number broke, the wider one alone
    why = f"budget spent ({gate.retries_used} of {gate.retries_max} retries, {gate.restarts_used} restarts)"
    if gate.observed is not None:
        why = "observed only, nothing is trained again"
    elif gate.reason == "inference_crash":
        why = f"the test failed {state.policy.max_command_retries + 1} times, and training cannot help it"
    elif gate.next_target_step is None:
        why = "this run trains no dynamics, so nothing is trained again"
    return StageBlocked(
        run_id=state.run_id,
        stage=gate.stage,
        blocking_factors=[f"{gate.reason}: {why}", *factors],
        best_checkpoint=gate.best_checkpoint,
        ordinal=state.blocks + 1,
    )


def _finish(state: RunState, ending: Ending) -> list[Event]:
    missing = reports_missing(state, ending)
    if missing and not ending.given_up:
        return []
    status, reason = ending.outcome, ending.reason
    if missing and status in ("passed", "stage_completed"):
        status, reason = "failed", f"{reason}, but the reporter did not write {', '.join(missing)}"
    return [
        RunFinished(
            run_id=state.run_id,
            status=status,
            degraded=state.degraded,
            reason=reason,
            mode=state.mode,
            ordinal=ending.ordinal,
        )
    ]


def _paused(state: RunState, *, by_operator: bool, reason: str) -> RunPaused:
    return RunPaused(
        run_id=state.run_id,
        by="operator" if by_operator else "evidence",
        reason=reason,
        ordinal=state.pauses + 1,
    )


def _resumed(state: RunState, *, by_operator: bool, reason: str) -> RunResumed:
    return RunResumed(
        run_id=state.run_id,
        by="operator" if by_operator else "evidence",
        reason=reason,
        ordinal=state.resumes + 1,
    )
