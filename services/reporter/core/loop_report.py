"""The text of `auto-training-loop-report-*.md`: the training, gate by gate."""

from __future__ import annotations

from services.reporter.core.changes import BATCH, changes
from services.reporter.core.findings import status_text
from services.reporter.core.gate_lines import checks, gate_line, withheld_text
from services.reporter.core.lineage import kept
from services.reporter.core.markdown import bullets, count_of, duration, number, table
from services.reporter.core.material import Material
from services.reporter.core.opening import opening, risks, the_rest, what_to_do
from services.reporter.core.story import Attempt, Outcome, Story
from shared.events import STAGES, GateDecided, Stage


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
    return "\n".join(lines) + "\n"


def _facts(story: Story, outcome: Outcome) -> list[str]:
    training, spec = story.configuration.training, story.spec
    checkout = f" ({spec.checkout.directory})" if spec.checkout is not None else ""
    rows = [
        ("status", f"**{status_text(story, outcome)}**"),
        ("profile", spec.profile),
        ("dataset", f"`{training.dataset}`"),
        ("stages to train", ", ".join(spec.stages) or "none"),
        ("trainer", f"{spec.backend}{checkout}"),
        ("processes, device, seed", f"{training.nproc_per_node}, {training.device}, {training.seed}"),
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
    for attempt in attempts:
        if attempt.gate is not None:
            lines += _gate(attempt.gate, attempt, counts[attempt.number], material)
        else:
            lines += [f"- attempt {attempt.number}: no gate was decided.", ""]
    return lines


def _gate(gate: GateDecided, attempt: Attempt, counts: str, material: Material) -> list[str]:
    lines = [gate_line(gate, material)]
    if gate.observed is not None:
        lines.append(f"  - {withheld_text(gate.observed, material)}")
    paths = ", ".join(material.link(path, gate.attempt) for path in gate.evidence_paths) or "none"
    lines += [f"  - updates that count now: {counts}", f"  - evidence: {paths}"]
    done = attempt.done
    tail = done.stderr_tail.strip() if done is not None else ""
    if tail and done is not None and done.reason not in ("completed", "stopped"):
        last = tail.splitlines()[-1].replace("`", "'")
        lines.append(f"  - last words of the training process: `{last}`")
    return lines + checks(gate.reasons, indent="  ")


def change_table(story: Story) -> list[str]:
    """What changed between the plans of a stage, and why."""
    found = changes(story)
    if not found:
        return ["None: every chunk ran with the values the run began with."]
    head = ("stage", "from attempt", "value", "before", "after", "because of", "rung")
    return table(
        head,
        [
            (c.stage, c.attempt, f"`{c.key}`" if c.key != BATCH else BATCH, c.before, c.after, c.why, c.rung)
            for c in found
        ],
    )


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


def incidents(story: Story) -> list[str]:
    """What operators, alerts, relaunches and the clock did."""
    found = [(time, f"operator: {_request(event)}") for time, event in story.requests]
    found += [(time, f"{event.name} by {event.by}: {event.reason}") for time, event in story.pauses]
    found += [(time, f"the run had ended {event.status}: {event.reason}") for time, event in story.endings]
    lines = [f"{time:%Y-%m-%d %H:%M:%S} {text}" for time, text in sorted(found, key=lambda each: each[0])]
    for attempt in story.attempts.values():
        again = [start for start in attempt.starts[1:] if not start.recount]
        if again:
            name = f"{again[0].stage} attempt {again[0].attempt}"
            lines.append(f"{name}: interrupted and launched again, {count_of(len(again), 'time')}")
    lines += [f"alert: {alert.stage} attempt {alert.attempt}: {alert.detail}" for alert in story.alerts]
    lines += [f"launcher {event.pid} ended: {event.why}" for event in story.killed]
    lines += [f"{event.name}: {event.id}, waited {event.waited_sec:.0f} s" for event in story.timed_out]
    return bullets(lines, "Nothing.")


def _request(event: object) -> str:
    request = getattr(event, "request", "")
    refused = getattr(event, "reason", None)
    if refused is not None:
        return f"{request} was refused: {refused}"
    arguments = {key: value for key, value in getattr(event, "arguments", {}).items() if key != "spec"}
    return f"{request} {number(arguments)}".rstrip()
