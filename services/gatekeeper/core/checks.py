"""The seven checks of a gate, in order; the first that fails decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from services.gatekeeper.config import Policy
from services.gatekeeper.core.detectors import Detected, detect
from services.gatekeeper.core.state import Chunk, StageState
from services.gatekeeper.core.verdicts import NumericVerdict, binds, numeric_verdict
from services.gatekeeper.core.visual import visual_reason
from shared.events import ArtifactEvidence, CheckpointInfo, ChunkDone, ChunkPlan, GpuEvidence, Reason, Verdict

Failure = Literal[
    "oom",
    "runtime_error",
    "non_finite",
    "no_evidence",
    "gpu_unobserved",
    "gpu_guard",
    "invalid_checkpoint",
    "stale_visualization",
    "no_history",
    "gate_fail",
    "loss_spike",
    "stagnation",
    "visual_collapse",
]


@dataclass(frozen=True, slots=True)
class Findings:
    """What the checks of one gate found."""

    failure: Failure | None
    """The first check that failed; none accepts the gate."""
    verdict: Verdict
    reasons: tuple[Reason, ...]
    severe: bool = False
    """Numbers collapsed, and so did the pictures where they bind: the stage is restarted."""
    entropy_collapsed: bool = False


def examine(stage: StageState, chunk: Chunk, policy: Policy) -> Findings:
    """Run all checks whose evidence is there.

    Args:
        stage: The stage before the gate.
        chunk: Its chunk, done; evidence is missing only where the operator waived it.
        policy: Thresholds.
    """
    done, gpu, artifacts = chunk.done, chunk.gpu, chunk.artifacts
    assert done is not None
    reasons = [_ended(done, chunk.plan)]
    failure: Failure | None = None if reasons[0].ok else _how(done)
    if gpu is None or artifacts is None:
        missing = chunk.missing
        text = f"the operator goes on without {', '.join(missing)}"
        reasons.append(_reason(0, "evidence", len(missing), 0, ok=False, text=text))
        return Findings(failure or "no_evidence", "retune", tuple(reasons))

    gpus = gpu_reason(done, gpu, chunk.plan, policy)
    checks: list[tuple[Reason, Failure]] = [
        (gpus, "gpu_guard" if gpu.observed else "gpu_unobserved"),
        (_checkpoint(done, chunk.plan), "invalid_checkpoint"),
        (_picture(artifacts), "stale_visualization"),
        (_history(chunk.plan, artifacts), "no_history"),
    ]
    for reason, name in checks:
        reasons.append(reason)
        failure = failure or (None if reason.ok else name)

    numeric = _numeric(stage, chunk, artifacts, policy)
    if numeric is not None:
        reasons.extend(numeric.reasons)
        failure = failure or ("gate_fail" if numeric.verdict == "retune" else None)
    detected = _detected(stage, chunk, artifacts, policy)
    reasons.extend(detected.reasons)
    failure = failure or detected.trouble
    visual = artifacts.visual  # an old picture was judged at its own gate
    picture = (
        visual_reason(stage.stage, visual, policy.visual) if visual is not None and visual.fresh else None
    )
    if picture is not None:
        reasons.append(picture)
        persistent = not picture.ok and stage.visual_failures + 1 >= policy.visual.in_a_row
        failure = failure or ("visual_collapse" if persistent else None)
    kept = picture is not None and picture.check != 0 and picture.ok
    flagged = (
        (numeric is not None and numeric.verdict == "watch")
        or not all(reason.ok for reason in detected.reasons)
        or (picture is not None and not picture.ok)
        or not gpu.observed
    )
    return Findings(
        failure,
        "retune" if failure else "watch" if flagged else "continue",
        tuple(reasons),
        severe=failure == "gate_fail" and numeric is not None and numeric.severe and not kept,
        entropy_collapsed=numeric is not None and numeric.entropy_collapsed,
    )


def newest_valid(done: ChunkDone, *, before: int) -> CheckpointInfo | None:
    """The newest valid checkpoint of the lineage from which there is still something to train."""
    valid = [info for info in done.checkpoints if info.valid and info.step < before]
    return max(valid, key=lambda info: info.step, default=None)


def is_sound(done: ChunkDone, plan: ChunkPlan) -> bool:
    """Whether the chunk left something to go on from: it reached its target with a valid checkpoint."""
    return _ended(done, plan).ok and _checkpoint(done, plan).ok


def is_guarded(done: ChunkDone, plan: ChunkPlan, policy: Policy) -> bool:
    """Whether check 2 applies: CUDA, two processes or more, and the policy enforces it."""
    ranks = plan.parameters.get("nproc_per_node")
    return policy.enforce_dual_gpu_check and done.device == "cuda" and isinstance(ranks, int) and ranks >= 2


def gpu_reason(done: ChunkDone, gpu: GpuEvidence, plan: ChunkPlan, policy: Policy) -> Reason:
    """Check 2: both GPUs worked."""
    guarded = is_guarded(done, plan, policy)
    ok = not guarded or gpu.dual_gpu_ok is True
    if not guarded:
        text = (
            "two GPUs are not asked for"
            if gpu.observed
            else "nobody watched the GPUs, and nothing asks for it"
        )
    elif ok:
        text = f"both GPUs were active, by {gpu.decided_by or 'evidence'}"
    elif not gpu.observed:
        text = f"nobody watched the GPUs long enough to tell: {gpu.problem or 'samples are missing'}"
    else:
        text = f"two active GPUs were not seen: {gpu.problem or 'one of them was idle'}"
    return _reason(2, "dual_gpu_ok", gpu.dual_gpu_ok, True if guarded else None, ok=ok, text=text)


def reaches(step: int, plan: ChunkPlan) -> bool:
    """Whether a chunk that has `step` updates is at its target; a checkout may be a little past it."""
    return plan.target_step <= step <= plan.target_step + plan.overshoot


def _ended(done: ChunkDone, plan: ChunkPlan) -> Reason:
    ok = done.reason == "completed" and reaches(done.end_step, plan)
    text = f"the chunk ended {done.reason} at step {done.end_step} of {done.target_step}"
    return _reason(
        1,
        "chunk_end",
        {"reason": done.reason, "end_step": done.end_step},
        {"reason": "completed", "end_step": done.target_step},
        ok=ok,
        text=text if ok or not done.stderr_tail else f"{text}: {_last_line(done.stderr_tail)}",
    )


def _how(done: ChunkDone) -> Failure:
    return done.reason if done.reason in ("oom", "non_finite") else "runtime_error"


def _checkpoint(done: ChunkDone, plan: ChunkPlan) -> Reason:
    newest = max(done.checkpoints, key=lambda info: info.step, default=None)
    if newest is None:
        return _reason(3, "checkpoint", None, done.target_step, ok=False, text="there is no checkpoint")
    ok = newest.valid and reaches(newest.step, plan)
    text = f"the newest checkpoint, {newest.path}, has {newest.step} of {done.target_step} updates"
    text += " and is valid" if newest.valid else f" and is not valid: {newest.problem or 'no reason given'}"
    return _reason(
        3,
        "checkpoint",
        {"step": newest.step, "valid": newest.valid},
        {"step": done.target_step, "valid": True},
        ok=ok,
        text=text,
    )


def _picture(artifacts: ArtifactEvidence) -> Reason:
    visual = artifacts.visual
    if visual is None:
        text = f"there is no picture to look at: {artifacts.visual_problem or 'none was written'}"
        return _reason(4, "visualization", None, "newer", ok=False, text=text)
    age = "newer" if visual.fresh else "older"
    text = f"the newest picture, {visual.sheet}, is {age} than the chunk's start"
    return _reason(4, "visualization", age, "newer", ok=visual.fresh, text=text)


def _history(plan: ChunkPlan, artifacts: ArtifactEvidence) -> Reason:
    history, needed = artifacts.history, plan.target_step - plan.start_step
    if history is None:
        text = f"there is no history: {artifacts.history_problem or 'no file was written'}"
        return _reason(5, "history", None, needed, ok=False, text=text)
    rows = history.rows + history.non_finite_rows  # a loss that is no number is check 6's
    ok = rows > 0 and history.covered_steps >= needed
    text = f"the history has rows for {history.covered_steps} of the chunk's {needed} updates"
    return _reason(5, "history", history.covered_steps, needed, ok=ok, text=text)


def _numeric(
    stage: StageState, chunk: Chunk, artifacts: ArtifactEvidence, policy: Policy
) -> NumericVerdict | None:
    if artifacts.history is None or artifacts.history.rows + artifacts.history.non_finite_rows == 0:
        return None
    previous = stage.accepted.late if stage.accepted is not None else None
    binding = binds(policy, chunk.plan.target_step, stage.target)
    return numeric_verdict(stage.stage, artifacts.history, policy, previous_late=previous, binding=binding)


def _detected(stage: StageState, chunk: Chunk, artifacts: ArtifactEvidence, policy: Policy) -> Detected:
    if artifacts.history is None:
        return Detected((), None)
    return detect(stage, artifacts.history, chunk.plan, policy.detectors)


def _last_line(tail: str) -> str:
    return tail.strip().rpartition("\n")[2][:300]


def _reason(check: int, name: str, value: JsonValue, threshold: JsonValue, *, ok: bool, text: str) -> Reason:
    return Reason(check=check, name=name, value=value, threshold=threshold, ok=ok, text=text)
