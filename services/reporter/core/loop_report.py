"""The text of `auto-training-loop-report-*.md`: the training, gate by gate."""

from __future__ import annotations

from itertools import groupby

from services.reporter.core.changes import BATCH, changes
from services.reporter.core.findings import status_text
from services.reporter.core.gate_lines import checks, gate_line, withheld_text
from services.reporter.core.hostile import code, inline
from services.reporter.core.incidents import incidents
from services.reporter.core.lineage import kept
from services.reporter.core.markdown import (
    LONG,
    duration,
    folded,
    long_table,
    number,
    shown,
    table,
    text_of,
)
from services.reporter.core.material import Material
from services.reporter.core.opening import opening, risks, the_rest, what_to_do
from services.reporter.core.story import Attempt, Outcome, Story
from shared.events import STAGES, GateDecided, Stage

SHOWN = 3
"""So many gates in a row that went as expected are shown in a long run; of more, one line that opens them."""


def loop_report(story: Story, outcome: Outcome, material: Material) -> str:
    """The report; plots are `<stage>_loss` and `<stage>_actions`."""
    lines = [
        *opening("Training loop", story, outcome),
        *_facts(story, outcome),
        "",
        "## Stages",
        "",
        *_stages(story, material),
        "",
        "## Gates",
    ]
    for stage in STAGES:
        lines += _stage(story, stage, material)
    if not story.attempts:
        lines += ["", "No stage was trained."]
    lines += ["", "## Configuration changes", "", *change_table(story)]
    lines += ["", "## Final checkpoints", "", *_checkpoints(story, material)]
    lines += ["", "## What went on beside the gates", "", *incidents(story)]
    lines += risks(story, outcome) + what_to_do(story, outcome) + the_rest(material)
    return text_of(lines)


def _facts(story: Story, outcome: Outcome) -> list[str]:
    training, spec = story.configuration.training, story.spec
    checkout = f" ({code(spec.checkout.directory)})" if spec.checkout is not None else ""
    rows = [
        ("status", f"**{status_text(story, outcome)}**"),
        ("profile", inline(spec.profile)),
        ("dataset", code(training.dataset)),
        ("stages to train", ", ".join(spec.stages) or "none"),
        ("trainer", f"{spec.backend}{checkout}"),
        ("processes, device, seed", f"{training.nproc_per_node}, {inline(training.device)}, {training.seed}"),
        ("began", f"{story.began:%Y-%m-%d %H:%M:%S} UTC"),
        ("decided" if outcome.over else "last event", f"{story.decided:%Y-%m-%d %H:%M:%S} UTC"),
        ("decisions", "recorded only (observe)" if spec.observe else "carried out"),
    ]
    return table(("", ""), rows)


def _stages(story: Story, material: Material) -> list[str]:
    rows = [
        (
            stage,
            _progress(story, stage),
            len(gates := [gate for gate in story.gates if gate.stage == stage]),
            sum(gate.decision == "retune" for gate in gates),
            sum(gate.decision == "restart_stage" for gate in gates),
            number(_final_loss(story, stage)),
            gates[-1].verdict if gates else "none",
            material.link(story.selected.get(stage)),
            duration(sum(each.done.seconds for each in story.of(stage) if each.done is not None)),
        )
        for stage in STAGES
        if stage in story.spec.stages
    ]
    if not rows:
        return ["None was to be trained."]
    head = (
        "stage",
        "updates",
        "gates",
        "retunes",
        "restarts",
        "final loss",
        "verdict",
        "checkpoint",
        "time",
    )
    return table(head, rows)


def _progress(story: Story, stage: Stage) -> str:
    gates = [gate for gate in story.gates if gate.stage == stage]
    accepted = story.accepted(stage)
    if not gates:
        return "not begun" if not list(story.of(stage)) else "before its first gate"
    return f"{accepted.gate_step if accepted is not None else 0} accepted of {gates[-1].target_step}"


def _final_loss(story: Story, stage: Stage) -> float | None:
    found = [each.artifacts.history for each in story.of(stage) if each.artifacts is not None]
    losses = [history.final_loss for history in found if history is not None]
    return losses[-1] if losses else None


def _stage(story: Story, stage: Stage, material: Material) -> list[str]:
    attempts = list(story.of(stage))
    if not attempts:
        return []
    lines = ["", f"### {stage}", ""]
    lines += material.plot(f"{stage}_loss", f"loss of {stage}")
    lines += material.plot(f"{stage}_actions", f"actions of {stage}")
    counts = kept(attempts)
    for plain, run in groupby(attempts, _as_expected):
        told = list(run)
        gates = [line for attempt in told for line in _attempt(attempt, counts[attempt.number], material)]
        if plain and len(told) > SHOWN and len(attempts) > LONG:
            first, last = told[0], told[-1]
            name = f"attempts {first.number} to {last.number}: {len(told)} gates, each continue (healthy)"
            lines += [*folded(name, gates), ""]
        else:
            lines += gates
    return lines


def _as_expected(attempt: Attempt) -> bool:
    """Whether nothing at its gate asks to be looked at."""
    gate = attempt.gate
    return (
        gate is not None and gate.verdict == "continue" and gate.observed is None and gate.reason == "healthy"
    )


def _attempt(attempt: Attempt, counts: str, material: Material) -> list[str]:
    if attempt.gate is None:
        return [f"- attempt {attempt.number}: no gate was decided.", ""]
    return _gate(attempt.gate, attempt, counts, material)


def _gate(gate: GateDecided, attempt: Attempt, counts: str, material: Material) -> list[str]:
    lines = [gate_line(gate, material)]
    if gate.observed is not None:
        lines.append(f"  - {withheld_text(gate.observed, material)}")
    paths = ", ".join(material.link(path, gate.attempt) for path in gate.evidence_paths) or "none"
    lines += [f"  - updates that count now: {counts}", f"  - evidence: {paths}"]
    done = attempt.done
    tail = done.stderr_tail.strip() if done is not None else ""
    if tail and done is not None and done.reason not in ("completed", "stopped"):
        lines.append(f"  - last words of the training process: {code(tail.splitlines()[-1])}")
    if gate.reason == "stopped":  # somebody asked: no check has failed
        return [*lines, *(f"  - not judged: {inline(each.text)}" for each in gate.reasons), ""]
    return lines + checks(gate.reasons, indent="  ")


def change_table(story: Story) -> list[str]:
    """What changed between the plans of a stage, and why."""
    found = changes(story)
    if not story.attempts:
        return ["No stage was trained."]
    if not found:
        return ["None: every chunk ran with the values the run began with."]
    head = ("stage", "from attempt", "value", "before", "after", "because of", "rung")
    rows = [
        (
            c.stage,
            c.attempt,
            code(c.key) if c.key != BATCH else BATCH,
            shown(c.before),
            shown(c.after),
            c.why,
            c.rung,
        )
        for c in found
    ]
    return long_table(head, rows, "change")


def _checkpoints(story: Story, material: Material) -> list[str]:
    if not story.selected:
        return ["None: no gate was accepted, and none was given."]
    rows = []
    for stage, path in story.selected.items():
        gate = story.accepted(stage)
        best = gate.best_checkpoint if gate is not None else None
        where = "given" if gate is None else f"accepted at update {gate.gate_step}"
        other = "the same" if best in (None, path) else material.link(best)
        rows.append((stage, material.link(path, whole=True), where, other))
    return table(("stage", "checkpoint", "where from", "best checkpoint"), rows)
