"""The text of `train-to-inference-report-*.md`: from the checkpoints to the inference gate."""

from __future__ import annotations

from services.reporter.core.findings import status_text
from services.reporter.core.gate_lines import checks, withheld_text
from services.reporter.core.hostile import inline
from services.reporter.core.markdown import count_of, duration, long_table, number, table, text_of
from services.reporter.core.material import Material
from services.reporter.core.opening import opening, risks, the_rest, what_to_do
from services.reporter.core.story import Attempt, Outcome, Story
from shared.events import STAGES, GateDecided, InferenceDone


def inference_report(story: Story, outcome: Outcome, material: Material) -> str:
    """The report; plots are `inference_<try>`."""
    lines = [
        *opening("Train to inference", story, outcome),
        f"Status: **{status_text(story, outcome)}**",
        "",
        "## Checkpoints",
        "",
        *_checkpoints(story, material),
        "",
        "## Inference attempts",
    ]
    for done in story.inferences:
        lines += _inference(story, done, material)
    if not story.inferences:
        lines += [
            "",
            "The inference test was not run." if story.spec.inference else "The run asked for no test.",
        ]
    lines += ["", "## Training calls", "", *_calls(story)]
    lines += risks(story, outcome) + what_to_do(story, outcome) + the_rest(material)
    return text_of(lines)


def _checkpoints(story: Story, material: Material) -> list[str]:
    used = story.inferences[-1].checkpoints if story.inferences else {}
    paths = story.selected | used
    if not paths:
        return ["None: no gate was accepted, and none was given."]
    rows = [
        (
            stage,
            material.link(paths[stage], whole=True),
            "given" if paths[stage] == story.spec.checkpoints.get(stage) else "trained in this run",
        )
        for stage in STAGES
        if stage in paths
    ]
    return table(("stage", "checkpoint", "where from"), rows)


def _inference(story: Story, done: InferenceDone, material: Material) -> list[str]:
    gate = next((each for each in story.inference_gates if each.attempt == done.inference_try), None)
    again = f", sent again {count_of(done.retry, 'time')}" if done.retry else ""
    lines = ["", f"### Try {done.inference_try}{again}", "", *_verdict(gate, material)]
    if not done.ok:
        return [*lines, f"The test did not come to its end: {inline(done.problem or 'no reason given')}.", ""]
    held_out = "held out" if done.held_out else "**not held out**"
    mode = f"{done.mode}, actions {done.actions}, {duration(done.seconds)}"
    frames = f"{done.frames_inferred} of {done.frames_expected} frames over {done.clips} clips"
    lines += [
        f"{frames} ({held_out}), {mode}.",
        "",
        *_numbers(story, done),
        "",
    ]
    lines += material.plot(f"inference_{done.inference_try}", "error of each frame and its baselines")
    lines += _per_frame(done)
    if done.picture is not None:
        lines += [material.picture(done.picture, "original frames and predicted ones"), ""]
    if done.video is not None:
        lines += [f"Video: {material.link(done.video)}", ""]
    if done.preview is not None:
        lines += [f"Animated: {material.link(done.preview)}", ""]
    return lines


def _verdict(gate: GateDecided | None, material: Material) -> list[str]:
    if gate is None:
        return ["No gate was decided on it.", ""]
    retries = f"retries {gate.retries_used} of {gate.retries_max}"
    return [
        f"decision {gate.decision} ({inline(gate.reason)}), verdict {gate.verdict}, {retries}",
        "",
        *([withheld_text(gate.observed, material), ""] if gate.observed is not None else []),
        *checks(gate.reasons),
    ]


def _numbers(story: Story, done: InferenceDone) -> list[str]:
    limit = {done.gated_by: f"limit {number(story.configuration.inference.max_mse)}"}
    standard = "the reference's number: one clip, random actions, context averaged in"
    rows = [
        (
            "MSE, predicted frames",
            number(done.mse) + _interval(done.mse_low, done.mse_high),
            limit.get("mse", "over all clips; does not gate here"),
        ),
        ("MSE of repeating the last frame", number(done.persistence_mse), "baseline: persistence"),
        (
            "skill",
            number(done.skill) + _interval(done.skill_low, done.skill_high),
            "1 - MSE / persistence; above 0 beats it",
        ),
        ("MSE of the mean frame", number(done.mean_frame_mse), f"its skill: {number(done.mean_frame_skill)}"),
        ("tokenizer MSE", number(done.tokenizer_mse), "the ceiling: reconstruction of the same frames"),
        (
            "PSNR, dB",
            number(done.psnr) + _interval(done.psnr_low, done.psnr_high),
            f"ceiling {number(done.tokenizer_psnr)}",
        ),
        ("SSIM", number(done.ssim) + _interval(done.ssim_low, done.ssim_high), "1 is equal"),
        (
            "delta PSNR, dB",
            number(done.delta_psnr) + _interval(done.delta_psnr_low, done.delta_psnr_high),
            "inferred minus random actions; above 0: actions steer",
        ),
        ("motion ratio", number(done.motion_ratio), "1 moves as much as the original"),
        ("action codes in use", number(done.actions_in_use), f"of {number(done.actions_total)}"),
        ("share of frames seen in training", number(done.seen_share), "exact copies"),
        (
            "mse_standard",
            number(done.mse_standard),
            ", ".join(filter(None, (limit.get("mse_standard"), standard))),
        ),
    ]
    return table(("number", "value", "compare with"), rows)


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None else f" (95 %: {number(low)} to {number(high)})"


def _per_frame(done: InferenceDone) -> list[str]:
    if not done.mse_per_frame:
        return []
    columns = {
        "MSE": done.mse_per_frame,
        "persistence": done.persistence_per_frame,
        "skill": done.skill_per_frame,
        "PSNR": done.psnr_per_frame,
        "SSIM": done.ssim_per_frame,
        "tokenizer MSE": done.tokenizer_per_frame,
    }
    present = {name: values for name, values in columns.items() if len(values) == len(done.mse_per_frame)}
    rows = [
        (frame + 1, *(values[frame] for values in present.values()))
        for frame in range(len(done.mse_per_frame))
    ]
    return [*table(("frame", *present), rows), ""]


def _calls(story: Story) -> list[str]:
    rows = [_call(attempt) for attempt in story.attempts.values() if attempt.starts]
    if not rows:
        return ["None."]
    head = ("stage", "attempt", "updates", "launches", "launcher", "processes", "ended", "exit code", "time")
    return long_table(head, rows, "call")


def _call(attempt: Attempt) -> tuple[object, ...]:
    first, last, done = attempt.starts[0], attempt.starts[-1], attempt.done
    warm = "warm" if first.warm else "cold"
    end = done.end_step if done is not None else "?"
    return (
        first.stage,
        first.attempt,
        f"{first.plan.start_step} to {end} of {first.plan.target_step}",
        f"{last.launch} ({warm})",
        last.launcher_pid,
        f"{first.world_size} on {inline(first.device)}",
        done.reason if done is not None else "not yet",
        done.exit_code if done is not None else None,
        duration(done.seconds) if done is not None else "",
    )
