"""The inference gate: whether the models pass the standard test, and what a failure means."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from services.gatekeeper.config import Bounds
from services.gatekeeper.core.changes.inference import is_usable
from services.gatekeeper.core.gate import withhold
from services.gatekeeper.core.state import RunState, StageState
from shared.events import STAGES, Decision, Document, GateDecided, InferenceDone, Reason, Stage

NUMBERS = (
    "mse",
    "mse_low",
    "mse_high",
    "mse_standard",
    "persistence_mse",
    "mean_frame_mse",
    "skill",
    "mean_frame_skill",
    "psnr",
    "ssim",
    "tokenizer_mse",
    "tokenizer_psnr",
    "delta_psnr",
    "motion_ratio",
    "seen_share",
)
"""What goes into the record of the gate."""


def judge_inference(state: RunState) -> GateDecided:
    """Decide the gate of the inference test that is done.

    Passes when the test ended cleanly, reports the selected checkpoints, inferred every frame, wrote its
    picture, and its MSE and what the policy requires are within their limits. Otherwise dynamics is trained
    further, at most `max_inference_retries` times; a test unusable after all its sendings stops the run.
    """
    evaluation, policy = state.evaluation, state.policy
    assert evaluation is not None
    assert evaluation.done is not None
    done = evaluation.done
    usable = is_usable(done, evaluation.checkpoints)
    max_mse = state.inference.max_mse
    reasons = conditions(done, evaluation.checkpoints, max_mse=max_mse, require=policy.require)
    failed = [reason for reason in reasons if not reason.ok]
    stage = state.stages.get("dynamics")
    can_retrain = usable and stage is not None
    exhausted = state.inference_retries >= policy.max_inference_retries
    decision: Decision = "continue" if not failed else "retune" if can_retrain and not exhausted else "stop"
    going_on = failed and can_retrain and stage is not None
    resume_from, resume_step = _newest(stage) if going_on else (None, _step(state))
    target, patch = resume_step, Document()
    if going_on and stage is not None:
        target = max(stage.target, resume_step) + policy.retry_chunk
        patch = {"learning_rate": _peak(state, stage), **stage.wish}
    spent = state.inference_retries + (decision == "retune")
    flagged = not failed and done.skill is not None and done.skill <= 0
    decided = GateDecided(
        run_id=state.run_id,
        stage="inference",
        attempt=evaluation.number,
        gate_step=_step(state),
        target_step=target,
        decision=decision,
        verdict="retune" if failed else "watch" if flagged else "continue",
        reason="healthy" if not failed else "inference_metric" if usable else "inference_crash",
        reasons=reasons,
        metrics={name: getattr(done, name) for name in NUMBERS},
        resume_from=resume_from,
        resume_step=resume_step,
        best_checkpoint=stage.best.checkpoint if stage is not None and stage.best is not None else None,
        next_target_step=target if going_on else None,
        config_patch_applied=patch if decision != "stop" else {},
        config_patch_on_resume=patch if decision == "stop" else {},
        decision_on_resume="retune" if decision == "stop" and going_on else None,
        effective_batch=stage.effective_batch if stage is not None else 0,
        launcher_pid=None,
        dual_gpu_ok=None,
        evidence_paths=[path for path in (done.picture, done.video, done.preview) if path is not None],
        retries_used=spent,
        retries_max=policy.max_inference_retries,
        restarts_used=0,
        degraded=state.degraded,
        recommendations=advice(done, max_mse),
    )
    observing = state.spec is not None and state.spec.observe
    return _look_on(state, decided) if observing and going_on else decided


def conditions(
    done: InferenceDone, selected: Mapping[Stage, str], *, max_mse: float, require: Mapping[str, Bounds]
) -> list[Reason]:
    """What a test needs to pass, and whether it has it; it passes when all hold.

    Args:
        done: The test.
        selected: The checkpoints it was to use.
        max_mse: Limit of the number that gates.
        require: What the policy asks of other numbers.
    """
    ran = _ran(done, selected)
    return [*ran, *_numbers(done, max_mse, require)] if is_usable(done, selected) else ran


def _look_on(state: RunState, decided: GateDecided) -> GateDecided:
    """The further training goes on record and is not done: the run ends, and it has not passed."""
    ended = decided.model_copy(
        update={
            "decision": "stop",
            "resume_from": None,
            "resume_step": _step(state),
            "target_step": _step(state),
            "next_target_step": None,
            "config_patch_applied": {},
            "config_patch_on_resume": {},
            "retries_used": state.inference_retries,
        }
    )
    return withhold(decided, ended)


def _ran(done: InferenceDone, selected: Mapping[Stage, str]) -> list[Reason]:
    """Whether the test did what it should, good or bad."""
    used = done.checkpoints
    others = [stage for stage in STAGES if used.get(stage) != selected.get(stage)]
    listed = "the three selected checkpoints are reported"
    if others:
        found = ", ".join(f"{used.get(stage, 'none')} for {stage}" for stage in others)
        listed = f"other checkpoints are reported than were selected: {found}"
    expected, inferred = done.frames_expected, done.frames_inferred
    mse, picture = done.gating, done.picture
    return [
        _reason(1, "clean_end", done.ok, "ok", ok=done.ok, text=done.problem or "the test ran to its end"),
        _reason(2, "checkpoints", len(STAGES) - len(others), len(STAGES), ok=not others, text=listed),
        _reason(
            3,
            "frames",
            inferred,
            expected,
            ok=0 < expected <= inferred,
            text=f"{inferred} of {expected} frames were inferred",
        ),
        _reason(
            4,
            "statistics",
            mse,
            "a number",
            ok=mse is not None,
            text=f"no {done.gated_by} is reported" if mse is None else "the statistics are reported",
        ),
        _reason(
            5,
            "picture",
            picture,
            "a new picture",
            ok=picture is not None,
            text="no new picture was written" if picture is None else f"{picture} was written",
        ),
    ]


def _numbers(done: InferenceDone, limit: float, require: Mapping[str, Bounds]) -> list[Reason]:
    mse, name = done.gating, done.gated_by
    assert mse is not None
    ok = mse <= limit
    of = "MSE" if name == "mse" else "MSE of the one standard clip"
    text = f"{of} {mse:.5g} is {'at or below' if ok else 'above'} {limit:g}"
    required = [_required(name, getattr(done, name), bounds) for name, bounds in require.items()]
    return [_reason(6, name, mse, limit, ok=ok, text=text), *required]


def _required(name: str, value: float | None, bounds: Bounds) -> Reason:
    words = (("above", bounds.above), ("at least", bounds.min), ("at most", bounds.max))
    asked = " and ".join(f"{word} {limit:g}" for word, limit in words if limit is not None)
    ok = (
        value is not None
        and (bounds.above is None or value > bounds.above)
        and (bounds.min is None or value >= bounds.min)
        and (bounds.max is None or value <= bounds.max)
    )
    found = "is missing" if value is None else f"is {value:.4g}"
    text = f"{name} {found}; the policy wants it {asked}"
    return _reason(7, name, value, bounds.model_dump(exclude_none=True), ok=ok, text=text)


def _newest(stage: StageState | None) -> tuple[str | None, int]:
    """The stage's newest valid checkpoint."""
    if stage is None or stage.newest is None:
        return None, 0
    return stage.newest


def _peak(state: RunState, stage: StageState) -> float:
    """Peak of the next segment: lower with every failure, never above the last one's."""
    policy = state.policy
    count = state.inference_failures + 1
    seeded = policy.retry_init_learning_rate * policy.retry_lr_decay**count
    wanted = min(stage.learning_rate * policy.retry_lr_decay, seeded)
    return min(stage.learning_rate, max(policy.min_learning_rate, wanted))


def _step(state: RunState) -> int:
    """Updates dynamics has."""
    stage = state.stages.get("dynamics")
    if stage is not None and stage.accepted is not None:
        return stage.accepted.step
    return state.spec.given_steps.get("dynamics", 0) if state.spec is not None else 0


def advice(done: InferenceDone, limit: float) -> list[str]:
    """What to do about a test's numbers, most important first; for people, decides nothing."""
    found = []
    if done.tokenizer_mse is not None and done.tokenizer_mse > limit:
        found.append(
            f"a better tokenizer first: its own reconstruction MSE {done.tokenizer_mse:.4g} is above "
            f"{limit:g}; then latent actions and dynamics again; dynamics retries are unlikely to help"
        )
    if done.skill is not None and done.skill <= 0:
        found.append(f"skill {done.skill:.3g}: the model is no better than repeating the last frame")
    return found


def _reason(check: int, name: str, value: JsonValue, threshold: JsonValue, *, ok: bool, text: str) -> Reason:
    return Reason(check=check, name=name, value=value, threshold=threshold, ok=ok, text=text)
