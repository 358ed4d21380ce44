"""The record of a chunk's gate: the decision with everything it rests on."""

from __future__ import annotations

from dataclasses import dataclass

from services.gatekeeper.core.state import Accepted, Chunk, RunState, StageState, effective_batch
from services.gatekeeper.core.visual import VISUAL_NUMBERS
from shared.events import BundlePath, Decision, Document, GateDecided, Reason, Verdict


@dataclass(frozen=True, slots=True)
class Course:
    """Where training goes on, and changed how."""

    resume_from: str | None
    resume_step: int
    next_target: int | None
    target: int
    patch: Document
    rungs: tuple[str, ...] = ()


def record(
    state: RunState,
    stage: StageState,
    chunk: Chunk,
    decision: Decision,
    verdict: Verdict,
    reason: str,
    reasons: tuple[Reason, ...],
    course: Course,
    *,
    accepted: Accepted | None = None,
    retries: int | None = None,
    restarts: int | None = None,
    degraded: bool = False,
    decision_on_resume: Decision | None = None,
    recommendations: list[str] | None = None,
) -> GateDecided:
    """The record of a chunk's gate.

    Args:
        state: The run before the gate.
        stage: The chunk's stage.
        chunk: The chunk, done.
        decision: What happens next; with `stop`, the course is what a resume would take.
        verdict: How healthy the gate is.
        reason: In one word.
        reasons: What every check found.
        course: Where training goes on, and changed how.
        accepted: The checkpoint of an accepted gate.
        retries: Used after the gate; none: as before.
        restarts: Likewise.
        degraded: The gate makes the run a degraded one.
        decision_on_resume: What was decided if a spent budget or the operator stops the run.
        recommendations: For the next full cycle.
    """
    done, policy = chunk.done, state.policy
    assert done is not None
    best = _better(stage.best, accepted)
    patch = {key: value for key, value in course.patch.items() if stage.parameters.get(key) != value}
    applied = patch if decision != "stop" else {}
    lowered = stage.batch > 1 and applied.get("batch_size_per_gpu") == 1
    batch = effective_batch(chunk.plan.parameters)
    next_batch = effective_batch({**stage.parameters, **applied})
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
        config_patch_applied=applied,
        config_patch_on_resume=patch if decision == "stop" else {},
        decision_on_resume=decision_on_resume,
        ladder=list(course.rungs),
        effective_batch=batch,
        next_effective_batch=next_batch if next_batch != batch else None,
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
            "update_seconds": history.update_seconds,
            "slowdown": history.slowdown,
        }
        if history.loss is not None:
            found |= history.loss.model_dump()
        if history.levels is not None:
            found |= {f"level_{name}": value for name, value in history.levels.model_dump().items()}
    if artifacts is not None and (visual := artifacts.visual) is not None:
        found |= {name: getattr(visual, name) for name in VISUAL_NUMBERS}
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
