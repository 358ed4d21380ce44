"""What a reader must know before trusting a run, most important first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from services.reporter.core.changes import ASKED, changes, failed_text
from services.reporter.core.hostile import code, inline
from services.reporter.core.markdown import count_of, duration, number
from services.reporter.core.story import Outcome, Story
from shared.events import STAGES, GateDecided, InferenceDone, Stage, Status

SEEN_MUCH = 0.5
"""Share of target frames known from training from which on a test says little about new frames."""
MOTION = (0.8, 1.2)
"""Motion ratio outside of which predictions are too still or too restless."""
HOW_IT_ENDED: dict[Status, str] = {
    "passed": "passed",
    "stage_completed": "completed its stages",
    "failed": "failed",
    "stopped": "was stopped",
}


def headline(story: Story, outcome: Outcome) -> str:
    """What happened, in a few sentences."""
    reason = inline(outcome.reason.rstrip("."))
    if story.spec.observe:  # it went on whether a stage was healthy or not
        reason = reason.removesuffix(" healthy")
    if outcome.over:
        marks = _marks(story, outcome)
        what = f"The run {HOW_IT_ENDED[outcome.status]}{f' ({marks})' if marks else ''}: {reason}."
    else:
        what = (
            f"The run has not ended: when the last event came, {story.decided:%Y-%m-%d %H:%M:%S} UTC, it was "
            f"{outcome.status} ({reason})."
        )
    gate = failed_gate(story)
    if outcome.status == "failed" and gate is not None and gate.reason not in outcome.reason:
        failed = failed_text(gate, most=1)
        place = "the inference gate" if gate.stage == "inference" else f"{gate.stage} attempt {gate.attempt}"
        what += f" What ended it was {place}: {gate.reason}{f' ({failed})' if failed else ''}."
    if story.spec.observe:
        failed_gates = count_of(sum(gate.observed is not None for _, gate in story.decisions), "gate")
        what += f" It was only observed: {failed_gates} failed, and no setting was changed for that."
    if story.endings:
        time, before = story.endings[-1]
        what += f" It {HOW_IT_ENDED[before.status]} before, {time:%Y-%m-%d %H:%M:%S} UTC, and was resumed."
    return f"{what} {_trained(story)} in {duration((story.decided - story.began).total_seconds())}."


def _trained(story: Story) -> str:
    trained = ", ".join(_reached(story, stage) for stage in STAGES if any(story.of(stage)))
    if not story.spec.stages:
        return "It had nothing to train and tested the checkpoints it was given,"
    if not trained:
        return "It trained nothing"
    decisions = Counter(gate.decision for gate in story.gates)
    counts = ", ".join(f"{count} {decision}" for decision, count in decisions.items())
    gates = f" through {count_of(len(story.gates), 'gate')} ({counts})" if counts else ""
    return f"It trained {trained}{gates}"


def _reached(story: Story, stage: Stage) -> str:
    accepted = story.accepted(stage)
    if accepted is not None:
        return f"{stage} to {accepted.gate_step} updates"
    ends = [attempt.done.end_step for attempt in story.of(stage) if attempt.done is not None]
    return f"{stage} to {max(ends)} updates that no gate accepted" if ends else f"{stage} (its first chunk)"


def failed_gate(story: Story) -> GateDecided | None:
    """The gate that ended the run, if a gate did."""
    gate = story.decisions[-1][1] if story.decisions else None
    return gate if gate is not None and gate.decision == "stop" and gate.verdict == "retune" else None


def status_text(story: Story, outcome: Outcome) -> str:
    """The status with its mode and flag: `passed (teacher-forced, degraded)`."""
    marks = _marks(story, outcome)
    return outcome.status + (f" ({marks})" if marks else "")


def _marks(story: Story, outcome: Outcome) -> str:
    forced = outcome.status == "passed" and story.configuration.inference.teacher_forced
    return ", ".join([*(["teacher-forced"] if forced else []), *(["degraded"] if outcome.degraded else [])])


def trust(story: Story, outcome: Outcome) -> str:
    """What can be relied on, in a few sentences."""
    done = last_test(story)
    risks = residual_risks(story, outcome)
    first = f" First residual risk: {risks[0]}" if risks else ""
    if done is None:
        return _unmeasured(story) + first
    where = "held-out" if done.held_out else "not held-out"
    limit = number(story.configuration.inference.max_mse)
    clips = f"over {done.clips} {where} clips" if done.gated_by == "mse" else "of one clip"
    measured = "was not measured" if done.skill is None else number(done.skill)
    skill = f"skill {measured} against repeating the last frame"
    text = f"MSE {number(done.gating)} against a limit of {limit} {clips}, {done.mode}; {skill}."
    return text + (first or " No residual risk was found.")


def last_test(story: Story) -> InferenceDone | None:
    """The last inference test, if it came to its end with a number."""
    done = story.inferences[-1] if story.inferences else None
    return done if done is not None and done.ok and done.gating is not None else None


def _unmeasured(story: Story) -> str:
    """What can be relied on although no test says how well the model predicts."""
    accepted = "of its last gate" if story.spec.observe else "accepted by its gate"
    names = [
        f"{stage} {code(path)} ({'given' if path == story.spec.checkpoints.get(stage) else accepted})"
        for stage, path in story.selected.items()
    ]
    if names:
        return f"These checkpoints: {', '.join(names)}. How well they predict was not measured."
    gate = story.decisions[-1][1] if story.decisions else None
    if gate is not None and gate.resume_from is not None:
        return f"Nothing yet: no gate accepted a checkpoint. The newest one is {code(gate.resume_from)}."
    return "Nothing: no gate accepted a checkpoint."


def residual_risks(story: Story, outcome: Outcome) -> list[str]:
    """What could be wrong although the run says otherwise, most important first."""
    done = story.inferences[-1] if story.inferences else None
    risks = list(_of_inference(story, done, outcome)) if done is not None else []
    return [*risks, *_of_training(story, outcome)]


def _of_inference(story: Story, done: InferenceDone, outcome: Outcome) -> Iterator[str]:
    inference = story.configuration.inference
    if not done.ok or done.gating is None:
        yield f"The inference test gave no number: {inline(done.problem or 'no reason given')}."
        return
    if done.skill is not None and done.skill <= 0:
        passes = "passes on MSE alone" if outcome.status == "passed" else "cannot be judged by MSE"
        yield (
            f"The model {passes}: skill {number(done.skill)} is not above 0, so repeating the last frame "
            f"predicts as well (MSE {number(done.persistence_mse)} against the model's {number(done.mse)})."
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
        yield f"The video was not written: {inline(done.video_problem)}."


def _of_training(story: Story, outcome: Outcome) -> Iterator[str]:
    if outcome.degraded:
        yield f"Degraded: {'; '.join(degraded_causes(story)) or 'the run is flagged so'}."
    for stage in STAGES:
        gate = story.accepted(stage)
        if gate is not None and gate.verdict == "watch":
            failed = "; ".join(inline(r.text) for r in gate.reasons if not r.ok) or inline(gate.reason)
            yield f"The last accepted gate of {stage} is flagged `watch`: {failed}."
    for stage in STAGES:
        unseen = [a.gpu for a in story.of(stage) if a.gpu is not None and not a.gpu.observed]
        if unseen:
            attempts = ", ".join(str(event.attempt) for event in unseen)
            yield f"GPU activity of {stage} was not observed throughout (attempt {attempts})."
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
        channels = ", ".join(sorted({inline(alert.channel) for alert in story.alerts}))
        yield f"{count_of(len(story.alerts), 'alert')} came ({channels})."
    if story.spec.observe:
        gates = [gate for gate in [*story.gates, *story.inference_gates] if gate.observed is not None]
        names = ", ".join(f"{gate.stage} attempt {gate.attempt} ({inline(gate.reason)})" for gate in gates)
        passed_over = f"these gates failed and were passed over: {names}" if gates else "no gate failed"
        yield f"Observe only: decisions were recorded, not carried out; {passed_over}."


def degraded_causes(story: Story) -> list[str]:
    """Why the run is degraded: failures at the smallest batch, and batches that were made to be 1."""
    found = []
    for gate in story.gates:
        batch = (gate.config_patch_applied | gate.config_patch_on_resume).get("batch_size_per_gpu")
        at_floor = batch is None and gate.reason in ("oom", "runtime_error")
        if gate.degraded and (batch == 1 or at_floor):  # the flag stays up once it is
            what = "was retuned down to batch 1" if batch == 1 else "failed at its smallest batch"
            failed = failed_text(gate, most=1)
            why = f"attempt {gate.attempt}, {gate.reason}{f': {failed}' if failed else ''}"
            found.append(f"{gate.stage} {what} ({why})")
    asked = [
        f"{change.stage} was retuned down to batch 1 (attempt {change.attempt}, {ASKED})"
        for change in changes(story)
        if change.key == "batch_size_per_gpu" and change.after == 1 and change.why == ASKED
    ]
    return found + asked


def tokenizer_limits(story: Story) -> str | None:
    """Says so when the tokenizer alone is worse than the limit."""
    done, limit = story.inferences[-1] if story.inferences else None, story.configuration.inference.max_mse
    if done is None or done.tokenizer_mse is None or done.tokenizer_mse <= limit:
        return None
    return (
        f"The tokenizer's own reconstruction MSE {number(done.tokenizer_mse)} is above the limit "
        f"{number(limit)}: no dynamics model can pass, and dynamics retries are unlikely to help."
    )
