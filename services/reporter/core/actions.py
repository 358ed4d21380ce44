"""What to do after a run, in the order of priority: at once, and in the next full cycle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from services.reporter.core.changes import failed_text
from services.reporter.core.findings import SEEN_MUCH, failed_gate, tokenizer_limits
from services.reporter.core.hostile import inline
from services.reporter.core.markdown import number
from services.reporter.core.story import Outcome, Story
from shared.events import CommandTimedOut

ADVICE = {
    "oom": "{stage} does not fit into memory at its smallest batch: take a smaller model (`embed_dim`, "
    "`num_blocks`), a shorter `context_length`, or more memory.",
    "runtime_error": "Find out why the training process of {stage} died: its last words are in the loop "
    "report, all it said in `Logs/training/`.",
    "non_finite": "The loss of {stage} stopped being a number: begin with a lower `learning_rate`, and look "
    "at the recording with `worldloop data inspect`.",
    "loss_spike": "The loss of {stage} jumped and did not come back: begin with a lower `learning_rate`, and "
    "look at the recording where it jumps.",
    "stagnation": "{stage} does not learn: its loss stays where it began. Try a higher `learning_rate`, or a "
    "larger model.",
    "gate_fail": "{stage} failed on {failed}. Its loss plot shows whether it still learns: if it does, its "
    "limits are too strict (`worldloop replay {run} KEY=VALUE` tries others on this run); if not, "
    "`worldloop diagnose {run}` names the stage where it began.",
    "visual_collapse": "The pictures of {stage} lost their structure ({failed}) while its loss did not tell: "
    "look at the newest sheet, then at `worldloop diagnose {run}`.",
    "gpu_guard": "Make both GPUs work (`worldloop monitor gpus`, `nvidia-smi`), or allow one with "
    "`--allow-single-gpu`.",
    "invalid_checkpoint": "The checkpoints of {stage} cannot be used ({failed}): look at disk space and "
    "quota.",
    "stale_visualization": "{stage} wrote no new picture: look at `Logs/training/` and at disk space.",
    "no_history": "{stage} wrote no history of its losses: look at `Logs/training/` and at disk space.",
    "inference_metric": "The model does not predict well enough ({failed}). {limits}",
    "inference_crash": "The inference test could not be used ({failed}): mend that, then go on.",
}
"""Reason of a gate that ended a run -> what to do about it."""


@dataclass(frozen=True, slots=True)
class Actions:
    """What to do."""

    now: list[str]
    next_cycle: list[str]


def actions(story: Story, outcome: Outcome) -> Actions:
    """What to do, each list in the order of priority; `now` is never empty."""
    return Actions([*_now(story, outcome)], list(dict.fromkeys(_next_cycle(story))))


def next_actions(story: Story, outcome: Outcome) -> list[str]:
    """What to do, in the order of priority, now before the next cycle."""
    found = actions(story, outcome)
    return [*found.now, *found.next_cycle]


def _now(story: Story, outcome: Outcome) -> Iterator[str]:
    run = story.run_id
    if tokenizer_limits(story) is not None:
        yield "Train a better tokenizer first, then latent actions and dynamics again."
    if any(gate.observed is not None for _, gate in story.decisions):
        yield (
            "Read in the training report what each failed gate would have led to; if that is right, run it "
            "without `--observe`."
        )
    gate = failed_gate(story)
    if outcome.status == "failed" and gate is not None and gate.reason in ADVICE:
        yield ADVICE[gate.reason].format(
            stage=gate.stage, run=run, failed=failed_text(gate, most=2) or "no number", limits=_limits(story)
        )
    done = story.inferences[-1] if story.inferences else None
    if done is not None and not done.ok and outcome.status != "passed":
        yield f"Find out why the inference test did not end: {inline(done.problem or 'it gave no reason')}."
    if outcome.status == "passed" and done is not None and done.skill is not None and done.skill <= 0:
        yield "Do not rely on this model: it predicts no better than repeating the last frame."
    match outcome.status:
        case "passed":
            yield f"Play it: `worldloop play {run}`."
        case "stage_completed":
            yield (
                "Train the other stages; only then the inference gate can tell whether the model is any good."
            )
        case "stopped":
            yield f"Go on where it stopped: `worldloop train --resume {run}`."
        case "failed":
            if gate is None:
                yield _mend(story, outcome)
            if story.spec.stages:
                yield f"Then go on with `worldloop train --resume {run}`, or start anew."
            else:
                yield "Train on from these checkpoints, or test others: this run could only test."
        case "paused":
            yield f"Let it go on: `worldloop resume {run}`; or end it: `worldloop stop {run}`."
        case _:
            yield (
                f"See whether it goes on: `worldloop status {run}`. If nothing works on it, `worldloop up` "
                "lets it go on by itself."
            )
    if story.inferences or story.gates:
        yield "Look at the pictures: numbers miss what an eye sees at once."


def _mend(story: Story, outcome: Outcome) -> str:
    """What to do first after an end that no gate decided."""
    unanswered = story.timed_out[-1] if story.timed_out else None
    service = unanswered.service if isinstance(unanswered, CommandTimedOut) else None
    if service is not None and outcome.reason.removeprefix("the ").startswith(service):
        return (
            f"Find out why the {service} did not answer: whether it runs (`worldloop status`), and its log "
            f"(`logs/{service}.log` in the state directory of `worldloop up`)."
        )
    return f"Mend what ended it: {inline(outcome.reason.rstrip('.'))}."


def _limits(story: Story) -> str:
    """Which model limits the prediction, as far as the last test tells."""
    done = story.inferences[-1] if story.inferences else None
    if done is None or done.tokenizer_mse is None:
        return "Compare the tokenizer's pictures with those of dynamics to see which model limits it."
    steers = "" if done.delta_psnr is None else f" (delta PSNR {number(done.delta_psnr)} dB)"
    return (
        f"The tokenizer alone has MSE {number(done.tokenizer_mse)} on the same frames: what is above that "
        f"comes from dynamics, or from latent actions that do not steer it{steers}."
    )


def _next_cycle(story: Story) -> Iterator[str]:
    for _, gate in story.decisions:
        yield from map(inline, gate.recommendations)
    done = story.inferences[-1] if story.inferences else None
    if done is None:
        return
    if done.skill is not None and done.skill <= 0:
        yield (
            "Train dynamics longer or lower its loss limits, and let the policy require skill > 0 "
            "(`gatekeeper.require.skill.above: 0`)."
        )
    used, total = done.actions_in_use, done.actions_total
    if used is not None and total is not None and 2 * used <= total and total > 2:
        yield f"Use fewer actions (`n_actions={max(2, total // 2)}`): {used} of {total} codes are in use."
    if done.delta_psnr is not None and done.delta_psnr <= 0:
        yield f"Train latent actions longer: actions steer nothing (delta PSNR {number(done.delta_psnr)} dB)."
    if done.seen_share is not None and done.seen_share > SEEN_MUCH:
        yield "Record more varied frames: most frames of the test occur in the training part."
    if not done.held_out:
        yield "Record more frames, so that clips can be held out of training."
