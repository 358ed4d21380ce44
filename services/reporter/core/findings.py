"""What a reader must know before trusting a run, and what to do next, most important first."""

from __future__ import annotations

from collections.abc import Iterator

from services.reporter.core.markdown import duration, number
from services.reporter.core.story import Outcome, Story
from shared.events import STAGES, InferenceDone

SEEN_MUCH = 0.5
"""Share of target frames known from training from which on a test says little about new frames."""
MOTION = (0.8, 1.2)
"""Motion ratio outside of which predictions are too still or too restless."""


def headline(story: Story, outcome: Outcome) -> str:
    """What happened, in one or two sentences."""
    gates = story.gates
    counts = {
        kind: sum(gate.decision == kind for gate in gates)
        for kind in dict.fromkeys(g.decision for g in gates)
    }
    decisions = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none"
    trained = ", ".join(
        f"{stage} to {max(g.gate_step for g in gates if g.stage == stage)} updates"
        for stage in STAGES
        if any(gate.stage == stage for gate in gates)
    )
    what = f"The run {status_text(story, outcome)}: {outcome.reason.rstrip('.')}."
    seconds = (story.decided - story.began).total_seconds()
    training = (
        f" It trained {trained} through {len(gates)} gates ({decisions})"
        if trained
        else " It trained nothing"
    )
    return f"{what}{training} in {duration(seconds)}."


def status_text(story: Story, outcome: Outcome) -> str:
    """The status with its mode and flag: `passed (teacher-forced, degraded)`."""
    marks = []
    if outcome.status == "passed" and story.configuration.inference.teacher_forced:
        marks.append("teacher-forced")
    if outcome.degraded:
        marks.append("degraded")
    return outcome.status + (f" ({', '.join(marks)})" if marks else "")


def trust(story: Story, outcome: Outcome) -> str:
    """What can be relied on, in one or two sentences."""
    done = story.inferences[-1] if story.inferences else None
    if done is None or done.gating is None:
        if not story.selected:
            return "Nothing: no gate was accepted."
        names = ", ".join(f"{stage} `{path}`" for stage, path in story.selected.items())
        return (
            f"The checkpoints of the last accepted gates ({names}). How well they predict was not measured."
        )
    where = "held-out" if done.held_out else "not held-out"
    limit = number(story.configuration.inference.max_mse)
    clips = f"over {done.clips} {where} clips" if done.gated_by == "mse" else "of one clip"
    measured = "was not measured" if done.skill is None else number(done.skill)
    skill = f"skill {measured} against repeating the last frame"
    text = f"MSE {number(done.gating)} against a limit of {limit} {clips}, {done.mode}; {skill}."
    risks = residual_risks(story, outcome)
    return f"{text} First residual risk: {risks[0]}" if risks else f"{text} No residual risk was found."


def residual_risks(story: Story, outcome: Outcome) -> list[str]:
    """What could be wrong although the run says otherwise, most important first."""
    done = story.inferences[-1] if story.inferences else None
    risks = list(_of_inference(story, done, outcome)) if done is not None else []
    return [*risks, *_of_training(story, outcome)]


def _of_inference(story: Story, done: InferenceDone, outcome: Outcome) -> Iterator[str]:
    inference = story.configuration.inference
    if done.gating is None:
        yield f"The inference test gave no number: {done.problem or 'no reason given'}."
        return
    if done.skill is not None and done.skill <= 0:
        passes = "passes on MSE alone" if outcome.status == "passed" else "cannot be judged by MSE"
        yield (
            f"The model {passes}: skill {number(done.skill)} is not above 0, so repeating the last frame "
            f"predicts as well (persistence MSE {number(done.persistence_mse)}, model {number(done.mse)})."
        )
    if not done.held_out:
        yield "The clips are not held out: frames of the test may have been trained on."
    if done.mode == "teacher-forced":
        yield "Teacher-forced: every frame was predicted from true frames, errors could not add up."
    if done.gated_by == "mse_standard":
        clip = "" if inference.sample_index is None else f" (sample index {inference.sample_index})"
        alone = "" if done.mse is not None else "; a model that predicts no motion can pass that"
        yield (
            f"One clip gated{clip}, with random actions and the copied context averaged in, not the mean "
            f"over held-out clips{alone}."
        )
    if done.actions in ("random", "given"):
        yield f"Actions were {done.actions}, not the ones that led to what really came."
    if (ceiling := tokenizer_limits(story)) is not None:
        yield ceiling
    if done.mean_frame_skill is not None and done.skill is not None and done.skill <= done.mean_frame_skill:
        yield (
            "The mean frame of the training part predicts as well (its skill is "
            f"{number(done.mean_frame_skill)}, the model's {number(done.skill)})."
        )
    if done.motion_ratio is not None and not MOTION[0] <= done.motion_ratio <= MOTION[1]:
        kind = "too still" if done.motion_ratio < MOTION[0] else "too restless"
        yield f"Motion is {kind}: ratio {number(done.motion_ratio)}, expected {MOTION[0]} to {MOTION[1]}."
    if done.delta_psnr is not None and done.delta_psnr <= 0:
        yield f"Actions steer nothing: delta PSNR {number(done.delta_psnr)} dB is not above 0."
    if (
        done.actions_in_use is not None
        and done.actions_total is not None
        and done.actions_in_use < done.actions_total
    ):
        yield f"Only {done.actions_in_use} of {done.actions_total} action codes are in use."
    if done.seen_share is not None and done.seen_share > SEEN_MUCH:
        yield f"{100 * done.seen_share:.0f} % of the target frames occur exactly in the training part."
    if done.video_problem is not None:
        yield f"The video was not written: {done.video_problem}."


def _of_training(story: Story, outcome: Outcome) -> Iterator[str]:
    if outcome.degraded:
        reasons = ", ".join(f"{g.stage} attempt {g.attempt} ({g.reason})" for g in story.gates if g.degraded)
        where = f": {reasons}" if reasons else ""
        yield f"Degraded: a stage ran at its smallest batch after failures{where}."
    for stage in STAGES:
        gate = story.accepted(stage)
        if gate is not None and gate.verdict == "watch":
            failed = "; ".join(reason.text for reason in gate.reasons if not reason.ok) or gate.reason
            yield f"The last accepted gate of {stage} is flagged `watch`: {failed}."
    for stage in STAGES:
        unseen = [a.gpu for a in story.of(stage) if a.gpu is not None and not a.gpu.observed]
        if unseen:
            attempts = ", ".join(str(event.attempt) for event in unseen)
            yield f"GPU activity of {stage} was not observed throughout (attempts {attempts})."
    relaunched = [a for a in story.attempts.values() if not all(start.recount for start in a.starts[1:])]
    if relaunched:
        names = ", ".join(f"{a.starts[-1].stage} attempt {a.starts[-1].attempt}" for a in relaunched)
        yield f"Training processes died or hung and were launched again: {names}."
    in_chunks = [stage for stage in STAGES if len(list(story.of(stage))) > 1]
    if story.spec.backend == "checkout" and in_chunks:
        yield (
            "The checkout made a learning-rate schedule for each launch, so the rate of "
            f"{', '.join(in_chunks)} is a saw-tooth. Larger chunks have fewer teeth, one chunk for a stage "
            "has none, and worldloop's own trainer keeps one schedule."
        )
    if story.alerts:
        channels = ", ".join(sorted({alert.channel for alert in story.alerts}))
        yield f"{len(story.alerts)} alerts were raised ({channels})."
    if story.spec.observe:
        gates = [gate for gate in [*story.gates, *story.inference_gates] if gate.observed is not None]
        names = ", ".join(f"{gate.stage} attempt {gate.attempt} ({gate.reason})" for gate in gates)
        passed_over = f"these gates failed and were passed over: {names}" if gates else "no gate failed"
        yield f"Observe only: decisions were recorded, not carried out; {passed_over}."


def tokenizer_limits(story: Story) -> str | None:
    """Says so when the tokenizer alone is worse than the limit."""
    done, limit = story.inferences[-1] if story.inferences else None, story.configuration.inference.max_mse
    if done is None or done.tokenizer_mse is None or done.tokenizer_mse <= limit:
        return None
    return (
        f"The tokenizer's own reconstruction MSE {number(done.tokenizer_mse)} is above the limit "
        f"{number(limit)}: no dynamics model can pass, and dynamics retries are unlikely to help."
    )


def next_actions(story: Story, outcome: Outcome) -> list[str]:
    """What to do, in the order of priority."""
    actions = []
    if tokenizer_limits(story) is not None:
        actions.append("Train a better tokenizer first, then latent actions and dynamics again.")
    actions += [
        f"{blocked.stage}: {factor}" for blocked in story.blocked[-1:] for factor in blocked.blocking_factors
    ]
    actions += dict.fromkeys(
        text for gate in [*story.gates, *story.inference_gates] for text in gate.recommendations
    )
    done = story.inferences[-1] if story.inferences else None
    if done is not None and not done.ok:
        actions.append(f"Find out why the inference test did not end: {done.problem}")
    if done is not None and done.skill is not None and done.skill <= 0:
        actions.append(
            "Train dynamics longer or lower its loss limits, and let the policy require skill > 0 "
            "(`gatekeeper.require.skill.above: 0`)."
        )
    if outcome.status == "stopped":
        actions.append(f"Go on where it stopped: `worldloop train --resume {story.run_id}`.")
    elif outcome.status == "failed":
        actions.append(
            "Read the failed gates of the loop report, change what they name, then go on with "
            f"`worldloop train --resume {story.run_id}` or start anew."
        )
    elif outcome.status == "stage_completed":
        actions.append(
            "Train the other stages; only then the inference gate can tell whether the model is any good."
        )
    actions.append("Look at the pictures: numbers miss what an eye sees at once.")
    return actions
