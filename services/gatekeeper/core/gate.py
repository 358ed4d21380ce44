"""The gate of a chunk: what the checks found becomes one decision, and where training goes on."""

from __future__ import annotations

from dataclasses import dataclass

from services.gatekeeper.core.checks import Failure, Findings, examine, is_guarded, newest_valid
from services.gatekeeper.core.ladders import Climb, climb, halve_batch
from services.gatekeeper.core.state import Accepted, Chunk, RunState, StageState, effective_batch
from shared.events import (
    ArtifactEvidence,
    BundlePath,
    ChunkDone,
    Decision,
    Document,
    GateDecided,
    Reason,
    Verdict,
)

FREE = ("gpu_unobserved", "no_evidence")
"""Failures that are the monitor's, not the model's: they spend no budget."""
HARD = (1, 3)
"""Checks without which training cannot go on where it is, not even when only looking on."""


@dataclass(frozen=True, slots=True)
class _Course:
    """Where training goes on, and changed how."""

    resume_from: str | None
    resume_step: int
    next_target: int | None
    target: int
    patch: Document
    rungs: tuple[str, ...] = ()


def needs_operator(state: RunState) -> bool:
    """Whether the gate has its evidence and cannot be decided: nobody watched the GPUs, twice."""
    chunk = state.chunk
    if chunk is None or chunk.done is None or chunk.gpu is None or chunk.artifacts is None:
        return False
    stage = state.stages[chunk.plan.stage]
    return (
        stage.unobserved > 0
        and not (state.spec is not None and state.spec.observe)
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
    observing = state.spec is not None and state.spec.observe
    if found.failure is None:
        return _accept(state, stage, chunk, found)
    if observing and all(reason.ok for reason in found.reasons if reason.check in HARD):
        # what would have been decided is recorded, and not done
        return _accept(state, stage, chunk, found, found.failure)
    return _refuse(state, stage, chunk, found, found.failure, observing=observing)


def _stopped(state: RunState, stage: StageState, chunk: Chunk, done: ChunkDone) -> GateDecided:
    """The operator's stop: no evidence, no budget; a resume goes on to the same target."""
    plan = chunk.plan
    resume_from, resume_step = _newest(stage, done, plan.target_step)
    reason = Reason(
        check=1,
        name="chunk_end",
        value={"reason": done.reason, "end_step": done.end_step},
        threshold={"reason": "completed", "end_step": plan.target_step},
        ok=False,
        text=f"stopped at step {done.end_step} of {plan.target_step}",
    )
    course = _Course(resume_from, resume_step, plan.target_step, stage.target, dict(stage.wish))
    return _record(state, stage, chunk, "stop", "watch", "stopped", (reason,), course)


def _accept(
    state: RunState, stage: StageState, chunk: Chunk, found: Findings, failure: str | None = None
) -> GateDecided:
    """On to the next chunk, from the checkpoint of this gate."""
    done, plan = chunk.done, chunk.plan
    assert done is not None
    checkpoint = max((info for info in done.checkpoints if info.valid), key=lambda info: info.step).path
    history = chunk.artifacts.history if chunk.artifacts is not None else None
    windows = history.loss if history is not None else None
    accepted = Accepted(
        plan.target_step,
        checkpoint,
        late=windows.late if windows is not None else None,
        last10=windows.last10 if windows is not None else None,
    )
    further = plan.target_step + state.policy.chunk.of(stage.stage)
    next_target = min(further, stage.target) if plan.target_step < stage.target else None
    wish = dict(stage.wish) if next_target is not None else {}  # no next plan, no patch
    course = _Course(checkpoint, plan.target_step, next_target, stage.target, wish)
    reset = plan.target_step > stage.highest and state.policy.retry_budget == "progress"
    return _record(
        state,
        stage,
        chunk,
        "retune" if failure is not None else "continue",
        found.verdict,
        failure or ("watch" if found.verdict == "watch" else "healthy"),
        found.reasons,
        course,
        accepted=accepted,
        retries=0 if reset else stage.retries,
    )


def _refuse(
    state: RunState, stage: StageState, chunk: Chunk, found: Findings, failure: Failure, *, observing: bool
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
        smaller = halve_batch(stage, policy.min_batch_size.of(stage.stage))
        degraded = smaller is None
        change = ladder if smaller is None else Climb(smaller, stage.target, stage.chunk)
    elif failure in ("non_finite", "gate_fail", "visual_collapse"):
        change = ladder
    elif failure == "invalid_checkpoint" and _newest(stage, done, chunk.plan.target_step)[0] is None:
        restart, change = True, ladder
    if observing:
        restart, change = False, unchanged

    decision: Decision = "restart_stage" if restart else "retune"
    free = failure in FREE
    blocked = not free and (
        stage.retries >= policy.max_retries or (restart and stage.restarts >= policy.max_restarts)
    )
    resume_from, resume_step = _resume(stage, chunk, failure, restart=restart, observing=observing)
    course = _Course(
        resume_from,
        resume_step,
        _next_target(chunk, change, resume_step, restart=restart),
        change.target,
        {**change.patch, **stage.wish},
        change.rungs,
    )
    return _record(
        state,
        stage,
        chunk,
        "stop" if blocked else decision,
        "retune",
        failure,
        found.reasons,
        course,
        retries=stage.retries if blocked or free else stage.retries + 1,
        restarts=stage.restarts + (restart and not blocked),
        degraded=degraded,
        recommendations=_recommendations(stage, found),
    )


def _resume(
    stage: StageState, chunk: Chunk, failure: Failure, *, restart: bool, observing: bool
) -> tuple[str | None, int]:
    done = chunk.done
    assert done is not None
    if restart:
        best = stage.best
        if best is None or best.checkpoint in stage.restarted_from or _is_broken(done, best.checkpoint):
            return None, 0
        return best.checkpoint, best.step
    if failure in ("oom", "runtime_error", "invalid_checkpoint") or observing:
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
    if not found.entropy_collapsed:
        return []
    actions = stage.knob("n_actions")
    return [f"next full cycle: fewer n_actions than {actions}, the action codes collapsed (never mid-run)"]


def _record(
    state: RunState,
    stage: StageState,
    chunk: Chunk,
    decision: Decision,
    verdict: Verdict,
    reason: str,
    reasons: tuple[Reason, ...],
    course: _Course,
    *,
    accepted: Accepted | None = None,
    retries: int | None = None,
    restarts: int | None = None,
    degraded: bool = False,
    recommendations: list[str] | None = None,
) -> GateDecided:
    done, policy = chunk.done, state.policy
    assert done is not None
    best = _better(stage.best, accepted)
    patch = {key: value for key, value in course.patch.items() if stage.parameters.get(key) != value}
    lowered = stage.batch > 1 and patch.get("batch_size_per_gpu") == 1
    return GateDecided(
        run_id=state.run_id,
        stage=stage.stage,
        attempt=chunk.plan.attempt,
        gate_step=done.end_step,
        target_step=course.target,
        decision=decision,
        verdict=verdict,
        reason=reason,
        reasons=list(reasons),
        metrics=_metrics(chunk),
        resume_from=course.resume_from,
        resume_step=course.resume_step,
        accepted_checkpoint=accepted.checkpoint if accepted is not None else None,
        best_checkpoint=best.checkpoint if best is not None else None,
        next_target_step=course.next_target,
        config_patch_applied=patch if decision != "stop" else {},
        config_patch_on_resume=patch if decision == "stop" else {},
        ladder=list(course.rungs),
        effective_batch=effective_batch(chunk.plan.parameters),
        launcher_pid=done.launcher_pid,
        dual_gpu_ok=chunk.gpu.dual_gpu_ok if chunk.gpu is not None else None,
        evidence_paths=_paths(chunk),
        retries_used=stage.retries if retries is None else retries,
        retries_max=policy.max_retries,
        restarts_used=stage.restarts if restarts is None else restarts,
        degraded=state.degraded or degraded or lowered,
        recommendations=recommendations or [],
    )


def _better(best: Accepted | None, accepted: Accepted | None) -> Accepted | None:
    """The accepted gate with the lower last-10 % mean; a given checkpoint only when there is no other."""
    if accepted is None or best is None:
        return best or accepted
    if best.last10 is None or (accepted.last10 is not None and accepted.last10 < best.last10):
        return accepted
    return best


def _metrics(chunk: Chunk) -> dict[str, float | None]:
    artifacts = chunk.artifacts
    found: dict[str, float | None] = {}
    if artifacts is not None and (history := artifacts.history) is not None:
        found |= {
            "final_loss": history.final_loss,
            "min_loss": history.min_loss,
            "median_loss": history.median_loss,
            "unique_actions": history.unique_actions,
            "action_entropy": history.action_entropy,
            "codebook_usage": history.codebook_usage,
            "learning_rate": history.learning_rate,
            "frames_per_sec": history.frames_per_sec,
        }
        if history.loss is not None:
            found |= history.loss.model_dump()
    if artifacts is not None and (visual := artifacts.visual) is not None:
        found |= {name: getattr(visual, name) for name in ("contrast", "flat_blocks", "striping", "edges")}
    return found


def _paths(chunk: Chunk) -> list[BundlePath]:
    done, gpu, artifacts = chunk.done, chunk.gpu, chunk.artifacts
    history = artifacts.history if artifacts is not None else None
    visual = artifacts.visual if artifacts is not None else None
    newest = max(done.checkpoints, key=lambda info: info.step, default=None) if done is not None else None
    found = (
        history.file if history is not None else done.history if done is not None else None,
        visual.sheet if visual is not None else done.visualization if done is not None else None,
        newest.path if newest is not None else None,
        gpu.file if gpu is not None else None,
    )
    return [path for path in found if path is not None]
