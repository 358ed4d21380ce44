"""The gate of a chunk: what the checks found becomes one decision, and where training goes on."""

from __future__ import annotations

from services.gatekeeper.config import Policy
from services.gatekeeper.core.checks import Failure, Findings, examine, is_guarded, is_sound, newest_valid
from services.gatekeeper.core.ladders import Climb, climb, slower, smaller_batch
from services.gatekeeper.core.record import Course, record
from services.gatekeeper.core.state import Accepted, Chunk, RunState, StageState
from shared.events import (
    ArtifactEvidence,
    ChunkDone,
    Decision,
    GateDecided,
    Reason,
    Withheld,
)

FREE = ("gpu_unobserved", "no_evidence")
"""Failures that are the monitor's, not the model's: they spend no budget."""


def needs_operator(state: RunState) -> bool:
    """Whether the gate has its evidence and cannot be decided: nobody watched the GPUs, twice."""
    chunk = state.chunk
    if chunk is None or chunk.done is None or chunk.gpu is None or chunk.artifacts is None:
        return False
    stage = state.stages[chunk.plan.stage]
    return (
        stage.unobserved > 0
        and not (state.spec is not None and state.spec.observe and is_sound(chunk.done, chunk.plan))
        and is_guarded(chunk.done, chunk.plan, state.policy)
        and not chunk.gpu.observed
        and examine(stage, chunk, state.policy).failure == "gpu_unobserved"
    )


def judge(state: RunState) -> GateDecided:
    """Decide the gate of the chunk that is done and has all its evidence."""
    chunk, policy = state.chunk, state.policy
    assert chunk is not None
    assert chunk.done is not None
    stage = state.stages[chunk.plan.stage]
    if chunk.done.reason == "stopped":
        return _stopped(state, stage, chunk, chunk.done)
    found = examine(stage, chunk, policy)
    if found.failure is None:
        return _accept(state, stage, chunk, found)
    decided = _refuse(state, stage, chunk, found, found.failure)
    if state.spec is not None and state.spec.observe:
        return _look_on(state, stage, chunk, found, decided)
    return decided


def _look_on(
    state: RunState, stage: StageState, chunk: Chunk, found: Findings, decided: GateDecided
) -> GateDecided:
    """What was decided goes on record and is not done: training goes on as if the gate had been accepted.

    A chunk that did not reach its target with a valid checkpoint leaves nothing to go on from: it is trained
    again from the newest valid checkpoint, knobs unchanged, within the budgets so that it ends.
    """
    done = chunk.done
    assert done is not None
    if is_sound(done, chunk.plan):
        return withhold(decided, _accept(state, stage, chunk, found, decided.reason))
    resume_from, resume_step = _newest(stage, done, chunk.plan.target_step)
    course = Course(resume_from, resume_step, chunk.plan.target_step, stage.target, dict(stage.wish))
    back = stage.accepted is not None and resume_step < stage.accepted.step
    order: Decision = "restart_stage" if back else "retune"
    blocked, retries, restarts = _spend(stage, state.policy, order, free=decided.reason in FREE)
    again = record(
        state,
        stage,
        chunk,
        "stop" if blocked else order,
        "retune",
        decided.reason,
        found.reasons,
        course,
        retries=retries,
        restarts=restarts,
        decision_on_resume=order if blocked else None,
    )
    return again if blocked else withhold(decided, again)


def withhold(decided: GateDecided, done: GateDecided) -> GateDecided:
    """What is done, with what was decided on record."""
    withheld = Withheld(
        decision=decided.decision,
        resume_from=decided.resume_from,
        resume_step=decided.resume_step,
        next_target_step=decided.next_target_step,
        target_step=decided.target_step,
        config_patch={**decided.config_patch_applied, **decided.config_patch_on_resume},
        ladder=decided.ladder,
    )
    return done.model_copy(update={"observed": withheld, "recommendations": decided.recommendations})


def _stopped(state: RunState, stage: StageState, chunk: Chunk, done: ChunkDone) -> GateDecided:
    """The operator's stop, or the trainer's who found no files: no evidence, no budget.

    A resume goes on to the same target.
    """
    plan = chunk.plan
    resume_from, resume_step = _newest(stage, done, plan.target_step)
    start = plan.resume_from
    if resume_step < plan.start_step and start is not None and not _is_broken(done, start):
        resume_from, resume_step = start, plan.start_step  # nothing was trained, and the trainer saw nothing
    name, text = "chunk_end", f"stopped at step {done.end_step} of {plan.target_step}"
    if state.stop is None and done.stderr_tail:
        name, text = "files", done.stderr_tail
    reason = Reason(
        check=1,
        name=name,
        value={"reason": done.reason, "end_step": done.end_step},
        threshold={"reason": "completed", "end_step": plan.target_step},
        ok=False,
        text=text,
    )
    course = Course(resume_from, resume_step, plan.target_step, stage.target, dict(stage.wish))
    return record(
        state, stage, chunk, "stop", "watch", "stopped", (reason,), course, decision_on_resume="continue"
    )


def _accept(
    state: RunState, stage: StageState, chunk: Chunk, found: Findings, observed: str | None = None
) -> GateDecided:
    """On to the next chunk from the checkpoint of this gate, whatever failure is only observed."""
    done = chunk.done
    assert done is not None
    newest = max((info for info in done.checkpoints if info.valid), key=lambda info: info.step)
    history = chunk.artifacts.history if chunk.artifacts is not None else None
    windows = history.loss if history is not None else None
    accepted = Accepted(
        newest.step,
        newest.path,
        late=windows.late if windows is not None else None,
        last10=windows.last10 if windows is not None else None,
    )
    further = newest.step + state.policy.chunk.of(stage.stage)
    next_target = min(further, stage.target) if newest.step < stage.target else None
    wish = dict(stage.wish) if next_target is not None else {}  # no next plan, no patch
    course = Course(newest.path, newest.step, next_target, stage.target, wish)
    reset = newest.step > stage.highest and state.policy.retry_budget == "progress"
    return record(
        state,
        stage,
        chunk,
        "continue",
        found.verdict,
        observed or ("watch" if found.verdict == "watch" else "healthy"),
        found.reasons,
        course,
        accepted=accepted,
        retries=0 if reset else stage.retries,
    )


def _refuse(
    state: RunState, stage: StageState, chunk: Chunk, found: Findings, failure: Failure
) -> GateDecided:
    """Again: with changed knobs, from another checkpoint, or not at all once the budget is spent."""
    done, policy = chunk.done, state.policy
    assert done is not None
    unchanged = Climb(target=stage.target, chunk=stage.chunk)
    ladder = climb(stage, policy, falling=_falling(chunk.artifacts))
    restart = found.severe
    degraded = False
    change = unchanged
    if failure in ("oom", "runtime_error"):
        smaller = smaller_batch(stage, policy)
        degraded = smaller is None
        change = ladder if smaller is None else Climb(smaller, stage.target, stage.chunk)
    elif failure in ("non_finite", "gate_fail", "stagnation", "visual_collapse"):
        change = ladder
    elif failure == "loss_spike":
        change = slower(stage, policy)
    elif failure == "invalid_checkpoint" and _newest(stage, done, chunk.plan.target_step)[0] is None:
        restart, change = True, ladder

    resume_from, resume_step = _resume(stage, chunk, failure, restart=restart)
    back = stage.accepted is not None and resume_step < stage.accepted.step  # only a restart goes there
    decision: Decision = "restart_stage" if restart or back else "retune"
    blocked, retries, restarts = _spend(stage, policy, decision, free=failure in FREE)
    course = Course(
        resume_from,
        resume_step,
        _next_target(chunk, change, resume_step, restart=restart),
        change.target,
        {**change.patch, **stage.wish},
        change.rungs,
    )
    return record(
        state,
        stage,
        chunk,
        "stop" if blocked else decision,
        "retune",
        failure,
        found.reasons,
        course,
        retries=retries,
        restarts=restarts,
        degraded=degraded,
        decision_on_resume=decision if blocked else None,
        recommendations=_recommendations(stage, found),
    )


def _spend(stage: StageState, policy: Policy, decision: Decision, *, free: bool) -> tuple[bool, int, int]:
    """What a failed gate takes: whether a budget is exceeded, retries and restarts used afterwards."""
    restart = decision == "restart_stage"
    if (not free and stage.retries >= policy.max_retries) or (
        restart and stage.restarts >= policy.max_restarts
    ):
        return True, stage.retries, stage.restarts
    return False, stage.retries + (not free), stage.restarts + restart


def _resume(stage: StageState, chunk: Chunk, failure: Failure, *, restart: bool) -> tuple[str | None, int]:
    done = chunk.done
    assert done is not None
    if restart:
        best = stage.best
        if best is None or best.checkpoint in stage.restarted_from or _is_broken(done, best.checkpoint):
            return None, 0
        return best.checkpoint, best.step
    if failure in ("oom", "runtime_error", "invalid_checkpoint"):
        return _newest(stage, done, chunk.plan.target_step)
    accepted = stage.accepted
    if accepted is None:
        return None, 0
    if _is_broken(done, accepted.checkpoint):
        return _newest(stage, done, accepted.step)
    return accepted.checkpoint, accepted.step


def _newest(stage: StageState, done: ChunkDone, before: int) -> tuple[str | None, int]:
    """The newest valid checkpoint below a step; the accepted one if the trainer listed none; else fresh."""
    info = newest_valid(done, before=before)
    accepted = stage.accepted
    usable = accepted is not None and accepted.step < before and not _is_broken(done, accepted.checkpoint)
    if accepted is not None and usable and (info is None or info.step < accepted.step):
        return accepted.checkpoint, accepted.step
    return (info.path, info.step) if info is not None else (None, 0)


def _is_broken(done: ChunkDone, path: str) -> bool:
    return any(info.path == path and not info.valid for info in done.checkpoints)


def _next_target(chunk: Chunk, change: Climb, resume_step: int, *, restart: bool) -> int:
    """The same chunk target; nearer if the ladder halved the chunk; a chunk's length away after a restart."""
    if restart:
        return min(resume_step + change.chunk, change.target)
    if "chunk" in change.rungs:
        return min(resume_step + change.chunk, chunk.plan.target_step)
    return chunk.plan.target_step


def _falling(artifacts: ArtifactEvidence | None) -> bool:
    history = artifacts.history if artifacts is not None else None
    return history is not None and history.loss is not None and history.loss.delta < 0


def _recommendations(stage: StageState, found: Findings) -> list[str]:
    actions = stage.knob("n_actions")
    if not found.entropy_collapsed or actions <= 2:
        return []
    return [f"next full cycle: fewer n_actions than {actions}, the action codes collapsed (never mid-run)"]
