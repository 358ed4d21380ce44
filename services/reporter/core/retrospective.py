"""The text of `train-to-inference-retrospective-*.md`: what changed on the way, why, and what to learn."""

from __future__ import annotations

from services.reporter.core.changes import BATCH, changes, effective_batch, failed_text
from services.reporter.core.findings import degraded_causes, status_text
from services.reporter.core.gate_lines import patch_text
from services.reporter.core.hostile import inline
from services.reporter.core.incidents import incidents
from services.reporter.core.lineage import kept
from services.reporter.core.loop_report import change_table
from services.reporter.core.markdown import bullets, duration, long_table, number, table, text_of
from services.reporter.core.material import Material
from services.reporter.core.opening import opening, risks, the_rest, what_to_do
from services.reporter.core.retrospective_alignment import alignment
from services.reporter.core.story import Attempt, Outcome, Story
from shared.config import StageConfig
from shared.events import STAGES, GateDecided, InferenceDone


def retrospective(story: Story, outcome: Outcome, material: Material) -> str:
    """The report."""
    lines = [
        *opening("Retrospective", story, outcome),
        f"Status: **{status_text(story, outcome)}**",
        *_section("What failed, and what was done about it", _failures(story, outcome, material)),
        *_section("Parameter changes across retries", change_table(story)),
        *_section("Effective batch", _batches(story)),
        *_section("Attempts and lineage", _attempts(story, material)),
        *_section("Alignment snapshot", alignment(story, material)),
        *_section("Degraded", _degraded(story, outcome)),
        *_section("Inference mode", _mode(story)),
        *_section("Where the time went", _time(story)),
        *_section("What went on beside the gates", incidents(story)),
        *risks(story, outcome),
        *what_to_do(story, outcome),
        *the_rest(material),
    ]
    return text_of(lines)


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", f"## {title}", "", *lines]


def _failures(story: Story, outcome: Outcome, material: Material) -> list[str]:
    rows = [
        (
            f"{time:%m-%d %H:%M:%S}",
            gate.stage,
            gate.attempt,
            gate.gate_step,
            inline(gate.reason),
            failed_text(gate) or "none",
            _decided(gate),
            _went_on(gate, material),
            f"{gate.retries_used} of {gate.retries_max}",
        )
        for time, gate in story.decisions
        if gate.verdict == "retune" or gate.decision in ("retune", "restart_stage")
    ]
    if not rows and outcome.status == "failed":
        return [f"No gate failed. What ended the run: {inline(outcome.reason.rstrip('.'))}."]
    if not rows:
        return ["No gate failed."]
    head = ("time", "stage", "attempt", "update", "reason", "what failed", "decision", "went on", "retries")
    return long_table(head, rows, "failed gate")


def _decided(gate: GateDecided) -> str:
    if gate.observed is not None:
        return f"{gate.decision} (observed only: would be {gate.observed.decision})"
    return gate.decision


def _went_on(gate: GateDecided, material: Material) -> str:
    if gate.decision == "stop":
        return "not"
    if gate.decision == "continue":
        return "as before"
    attempt = None if gate.stage == "inference" else gate.attempt
    start = material.link(gate.resume_from, attempt) if gate.resume_from is not None else "the beginning"
    rungs = f"; rungs {', '.join(gate.ladder)}" if gate.ladder else ""
    return f"from {start} to {number(gate.next_target_step)}, {patch_text(gate.config_patch_applied)}{rungs}"


def _batches(story: Story) -> list[str]:
    """Per stage, what it began with and every change."""
    moved = {(each.stage, each.attempt) for each in changes(story) if each.key == BATCH}
    rows = []
    for stage in STAGES:
        for place, attempt in enumerate(each for each in story.of(stage) if each.starts):
            plan = attempt.starts[0].plan
            if place == 0 or (stage, attempt.number) in moved:
                keys = ("batch_size_per_gpu", "gradient_accumulation_steps")
                ranks = StageConfig.recorded(plan.parameters)
                parts = [*(plan.parameters.get(key, 1) for key in keys), ranks.nproc_per_node * ranks.nnodes]
                note = "as it began" if place == 0 else "changed"
                rows.append((stage, attempt.number, *parts, effective_batch(plan), note))
    if not rows:
        return ["No stage was trained."]
    head = ("stage", "from attempt", "batch per process", "accumulation", "processes", "effective batch", "")
    same = [] if moved else ["", "It never changed."]
    return table(head, rows) + same


def _attempts(story: Story, material: Material) -> list[str]:
    rows = []
    for stage in STAGES:
        attempts = list(story.of(stage))
        counts = kept(attempts)
        rows += [
            (stage, *_attempt(attempt), counts[attempt.number], _kept(attempt, material))
            for attempt in attempts
        ]
    if not rows:
        return ["No stage was trained."]
    head = ("stage", "attempt", "updates", "launches", "ended", "time", "gate", "counts now", "checkpoint")
    return long_table(head, rows, "attempt")


def _attempt(attempt: Attempt) -> tuple[object, ...]:
    done, gate = attempt.done, attempt.gate
    start = attempt.starts[0].plan.start_step if attempt.starts else "?"
    return (
        attempt.number,
        f"{start} to {done.end_step if done is not None else '?'}",
        len(attempt.starts),
        done.reason if done is not None else "not yet",
        duration(done.seconds) if done is not None else "",
        f"{gate.decision} ({inline(gate.reason)})" if gate is not None else "none",
    )


def _kept(attempt: Attempt, material: Material) -> str:
    gate = attempt.gate
    return material.link(gate.accepted_checkpoint, gate.attempt) if gate is not None else "none"


def _degraded(story: Story, outcome: Outcome) -> list[str]:
    causes = degraded_causes(story)
    if not outcome.degraded and not causes:
        return ["No: no stage failed at its smallest batch, and none was retuned down to batch 1."]
    return ["Yes:", "", *bullets(causes, "the run is flagged so; its events do not name the gate.")]


def _mode(story: Story) -> list[str]:
    if not story.spec.inference:
        return ["The run asked for no inference test."]
    settings = story.configuration.inference
    done = story.inferences[-1] if story.inferences else None
    asked = "teacher-forced" if settings.teacher_forced else "autoregressive"
    by = story.spec.checkout.inference if story.spec.checkout is not None else "own"
    rows: list[tuple[str, object]] = [
        ("mode", f"**{done.mode if done is not None else asked}**"),
        ("actions", done.actions if done is not None else settings.actions),
        ("context_window, prediction_horizon, generation_steps", _shape(story)),
        ("temperature, decode_steps", f"{number(settings.temperature)}, {settings.decode_steps}"),
        ("max_mse", settings.max_mse),
        ("rollout by", "worldloop" if by == "own" else "the checkout's `scripts/run_inference.py`"),
    ]
    lines = table(("setting", "value"), rows)
    if not story.inferences:
        return [*lines, "", "The test was not run."]
    head = ("try", "gating number", "value", "limit", "skill", "clips", "held out", "decision")
    return [*lines, "", *table(head, [_try(story, each) for each in story.inferences])]


def _shape(story: Story) -> str:
    settings = story.configuration.inference
    return f"{settings.context_window}, {settings.prediction_horizon}, {settings.generation_steps}"


def _try(story: Story, done: InferenceDone) -> tuple[object, ...]:
    gate = next((each for each in story.inference_gates if each.attempt == done.inference_try), None)
    limit = story.configuration.inference.max_mse
    decision = f"{gate.decision} ({inline(gate.reason)})" if gate is not None else "none"
    held_out = "yes" if done.held_out else "**no**"
    value = number(done.gating) if done.ok else f"none: {inline(done.problem or 'no reason given')}"
    return (done.inference_try, done.gated_by, value, limit, done.skill, done.clips, held_out, decision)


def _time(story: Story) -> list[str]:
    spent = story.spent
    if spent is None or spent.fraction is None:
        return ["Nothing was begun, so no time was spent."]
    whole = sum(each.seconds for each in spent.spent)
    rows = [
        (each.name, duration(each.seconds), f"{100 * each.seconds / whole:.1f} %", each.meaning)
        for each in spent.spent
        if each.seconds > 0
    ]
    head = ("what", "time", "share", "meaning")
    text = f"Goodput {100 * spent.fraction:.1f} %. {spent.definition}"
    return [text, "", *table(head, rows)]
