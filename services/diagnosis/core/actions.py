"""What to do next, in the order of priority: at once, and in the next full cycle.

Knob changes are those of the gatekeeper's ladders, with its limits; where a stage's present knobs are not
known, the ladder is given in words. What must never change in the middle of a run is for the next cycle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from services.diagnosis.core.evidence import RunEvidence, StageEvidence
from services.diagnosis.core.model import Action, Cause, Checkpoint, StageDiagnosis
from services.gatekeeper.config import Policy
from services.gatekeeper.core.ladders import climb, smaller_batch
from services.gatekeeper.core.state import StageState
from shared.config import KNOBS
from shared.events import STAGES, Stage

Stages = Mapping[Stage, StageDiagnosis]
RERUN = ("gpu_guard", "gpu_unobserved", "invalid_checkpoint", "stale_visualization", "no_history")
"""Reasons of a gate that say nothing against the knobs."""
TOO_LARGE = ("oom", "runtime_error")
UNUSABLE = ("checkpoints_empty", "checkpoints_stale")


def change_now(run: RunEvidence, stages: Stages, cause: Cause) -> list[Action]:
    """What to do at once: what is being lost first, then upstream stages before those that read them."""
    found = {each.stage: each for each in run.stages}
    actions = [action for stage in stages.values() for action in _rescue(stage)]
    for name in STAGES:
        stage = stages.get(name)
        if stage is None or not any(_about_training(finding.name) for finding in stage.findings):
            continue
        if name == "dynamics" and cause.primary == "latent_actions":
            actions.append(_hold(cause))
        else:
            actions.append(_retune(found[name], stage, run.policy))
    actions += _inference_now(run)
    if not actions and any(stage.verdict != "normal" for stage in stages.values()):
        actions.append(_look(stages))
    return actions or [Action(text="Change nothing: go on", why="no check failed")]


def next_cycle(run: RunEvidence, stages: Stages, cause: Cause) -> list[Action]:
    """What to do in the next full cycle."""
    actions = []
    tokenizer = stages.get("video_tokenizer")
    inference = run.inference
    limit = run.max_mse
    ceiling = inference.tokenizer_mse if inference is not None else None
    if ceiling is not None and limit is not None and ceiling > limit:
        why = (
            f"its own reconstruction MSE {ceiling:.4g} is above the limit {limit:g}: dynamics cannot pass it"
        )
        actions.append(_better_tokenizer(why))
    elif tokenizer is not None and tokenizer.verdict == "critical":
        actions.append(_better_tokenizer("; ".join(f.text for f in tokenizer.findings[:1])))
    latent = stages.get("latent_actions")
    if latent is not None and any(gate.entropy_collapsed for gate in latent.gates[-1:]):
        actions.append(_fewer_actions(run, latent))
    if cause.primary in ("latent_actions", "mixed") and (
        "dynamics" in stages or cause.primary == "latent_actions"
    ):
        text = "Train dynamics again, on latent actions that passed their gates"
        actions.append(Action(text=text, why=f"dynamics learned from collapsed actions: {cause.text}"))
    if cause.primary in ("dynamics", "mixed"):
        rate = next(each for each in cause.dynamics_criteria if each.name == "follows_rate")
        text = "Begin dynamics with a lower peak learning rate, and put gates closer together"
        actions.append(Action(text=text, why=rate.text if rate.holds else cause.text, stage="dynamics"))
    if any(finding.name in UNUSABLE for stage in stages.values() for finding in stage.findings):
        text = "Before the next run make sure that checkpoints can be written: disk space, quota, one writer"
        actions.append(Action(text=text, why="checkpoints of this run are empty, tiny or out of date"))
    return actions


def _rescue(stage: StageDiagnosis) -> list[Action]:
    """What keeps a stage's work from being lost."""
    unusable = [finding for finding in stage.findings if finding.name in UNUSABLE]
    if unusable:
        where = (
            f"go on from {stage.fallback.path}" if stage.fallback is not None else "begin the stage afresh"
        )
        text = f"Stop {stage.stage}, find out why its checkpoints are not written, then {where}"
        return [Action(text=text, why="; ".join(finding.text for finding in unusable), stage=stage.stage)]
    newest = stage.checkpoints[-1] if stage.checkpoints else None
    if newest is None or newest.valid:
        return []
    if stage.fallback is None:
        text = f"Train {stage.stage} again: it has no valid checkpoint"
        return [Action(text=text, why=f"{newest.path}: {newest.problem}", stage=stage.stage)]
    text = f"Pin {stage.fallback.path} ({stage.fallback.step} updates) instead of the newest checkpoint"
    return [Action(text=text, why=f"{newest.path}: {newest.problem}", stage=stage.stage)]


def _about_training(finding: str) -> bool:
    return finding in ("gates", "gate", "divergence", "visual_structure")


def _hold(cause: Cause) -> Action:
    text = "Hold dynamics until latent actions pass their gate; its own knobs are not the first suspect"
    return Action(text=text, why=f"latent actions are primary: {cause.text}", stage="dynamics")


def _retune(found: StageEvidence, stage: StageDiagnosis, policy: Policy) -> Action:
    newest = stage.gates[-1] if stage.gates else None
    why = next(finding.text for finding in stage.findings if _about_training(finding.name))
    worst = stage.findings[0].severity
    start = _start(stage.fallback, afresh=newest is not None and newest.severe)
    if newest is not None and newest.verdict == "watch" and worst == "watch":
        text = f"Go on with {stage.stage} and look at its next gate: it is flagged, not failed"
        if stage.step is not None and stage.target is not None and stage.step >= stage.target:
            text = f"Nothing has to change in {stage.stage}: it is flagged, not failed, and at its target"
        return Action(text=text, why=why, stage=stage.stage)
    if newest is not None and newest.reason in RERUN:
        text = f"Run the chunk of {stage.stage} again with its knobs as they are, {start}"
        return Action(text=text, why=why, stage=stage.stage)
    if newest is not None and newest.patch:
        text = f"Let {stage.stage} go on with what the run changed itself: {_assignments(newest.patch)}"
        return Action(text=text, why=why, stage=stage.stage, patch=newest.patch)
    patch, extra = _ladder(found, stage, policy)
    if patch is None:
        return Action(text=f"Retune {stage.stage}, {start}: {extra}", why=why, stage=stage.stage)
    knobs = _assignments(patch) if patch else "its knobs are at their floors"
    text = f"Retune {stage.stage}, {start}: {knobs}{f'; {extra}' if extra else ''}"
    return Action(text=text, why=why, stage=stage.stage, patch=patch)


def _start(fallback: Checkpoint | None, *, afresh: bool) -> str:
    if fallback is None:
        return "afresh"
    return f"from {'the best accepted checkpoint, else afresh' if afresh else fallback.path}"


def _ladder(
    found: StageEvidence, stage: StageDiagnosis, policy: Policy
) -> tuple[dict[str, JsonValue] | None, str]:
    """The stage's ladder with numbers; where the knobs are not known, none and the ladder in words."""
    ladder, chunk = policy.ladders.of(stage.stage), policy.chunk.of(stage.stage)
    known = {key: found.config[key] for key in KNOBS if isinstance(found.config.get(key), int | float)}
    reason = stage.gates[-1].reason if stage.gates else ""
    if len(known) < len(KNOBS):
        if reason in TOO_LARGE:
            return None, f"batch_size_per_gpu / {policy.batch_size_divisor}"
        words = [f"learning_rate * {ladder.learning_rate_factor:g}"]
        if ladder.gradient_accumulation_change:
            words.append(f"gradient_accumulation_steps {ladder.gradient_accumulation_change:+d} (at least 1)")
        words.append(f"log_interval / 2 (not below {ladder.log_interval_floor})")
        return None, ", ".join(words)
    state = StageState(stage.stage, target=stage.target or 0, chunk=chunk, parameters=known)
    if reason in TOO_LARGE and (smaller := smaller_batch(state, policy)) is not None:
        return dict(smaller), ""
    falling = stage.loss is not None and stage.loss.windows.delta < 0
    climbed = climb(state, policy, falling=falling)
    extra = []
    if stage.target is not None and climbed.target > stage.target:
        extra.append(f"target {climbed.target} instead of {stage.target}: the loss still falls")
    if climbed.chunk < chunk:
        extra.append(f"look again after {climbed.chunk} updates, not {chunk}")
    return dict(climbed.patch), "; ".join(extra)


def _inference_now(run: RunEvidence) -> list[Action]:
    gate = run.inference_gate
    if gate is None or gate.verdict == "continue":
        return []
    why = "; ".join(reason.text for reason in gate.reasons if not reason.ok) or gate.reason
    policy = run.policy
    peak = policy.retry_init_learning_rate * policy.retry_lr_decay
    text = (
        f"Go on with dynamics from its newest valid checkpoint for {policy.retry_chunk} updates, "
        f"peak at most {peak:.3g}, and test inference again"
    )
    return [Action(text=text, why=why, stage="dynamics")]


def _look(stages: Stages) -> Action:
    blind = [
        stage.stage for stage in stages.values() if any(each.name == "no_history" for each in stage.findings)
    ]
    if blind:
        text = f"Find the history of {', '.join(blind)}: diagnose its .wandb file, or export it to Logs/"
        return Action(text=text, why="without the loss nobody can say that training is healthy")
    worst = next(stage for stage in stages.values() if stage.verdict != "normal")
    text = f"Look at {worst.stage} before training on"
    return Action(text=text, why=worst.findings[0].text, stage=worst.stage)


def _better_tokenizer(why: str) -> Action:
    text = "Train a better video tokenizer first, then latent actions and dynamics again on its checkpoint"
    return Action(text=text, why=why, stage="video_tokenizer")


def _fewer_actions(run: RunEvidence, latent: StageDiagnosis) -> Action:
    config = next(each.config for each in run.stages if each.stage == "latent_actions")
    count = config.get("n_actions")
    fewer = max(2, count // 2) if isinstance(count, int) else None
    text = "Use fewer actions" + (f": n_actions={fewer}" if fewer is not None and fewer != count else "")
    entropy = latent.actions.entropy_late if latent.actions is not None else None
    seen = f" ({entropy:.3g} nats)" if entropy is not None else ""
    why = f"the action entropy has collapsed{seen}; n_actions never changes in the middle of a run"
    return Action(text=f"{text}, in a full cycle from latent actions on", why=why, stage="latent_actions")


def _assignments(patch: Mapping[str, JsonValue]) -> str:
    return " ".join(f"{key}={_value(value)}" for key, value in patch.items())


def _value(value: JsonValue) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def fallbacks(stages: Sequence[StageDiagnosis]) -> dict[Stage, str]:
    """Newest valid checkpoint of each stage that has one."""
    return {stage.stage: stage.fallback.path for stage in stages if stage.fallback is not None}
