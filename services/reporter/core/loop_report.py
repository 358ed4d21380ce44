"""The text of `auto-training-loop-report-*.md`: the training, gate by gate."""

from __future__ import annotations

from collections.abc import Mapping

from services.reporter.core.changes import changes
from services.reporter.core.findings import headline, next_actions, residual_risks, trust
from services.reporter.core.markdown import bullets, link, number, picture, table
from services.reporter.core.story import Attempt, Outcome, Story
from shared.events import STAGES, GateDecided, Reason, Stage, Withheld


def loop_report(
    story: Story, outcome: Outcome, plots: Mapping[Stage, str], problems: Mapping[Stage, str]
) -> str:
    """The report.

    Args:
        story: The run.
        outcome: How it ended.
        plots: Stage -> its loss plot, relative to the bundle.
        problems: Stage -> why it has no plot.
    """
    lines = [
        f"# Training loop: {story.spec.run_name} (run {story.run_id})",
        "",
        f"**What happened.** {headline(story, outcome)}",
        "",
        f"**What to trust.** {trust(story, outcome)}",
        "",
        f"**What to do next.** {next_actions(story, outcome)[0]}",
        "",
        *_facts(story),
        "",
        "## Gates",
    ]
    for stage in STAGES:
        lines += _stage(story, stage, plots.get(stage), problems.get(stage))
    if not story.attempts:
        lines += ["", "No stage was trained."]
    lines += ["", "## Configuration changes", "", *_changes(story)]
    lines += ["", "## Final checkpoints", "", *_checkpoints(story)]
    lines += ["", "## What went on beside the gates", "", *_incidents(story)]
    lines += ["", "## Residual risks", ""]
    lines += bullets(residual_risks(story, outcome), "None was found by what the gates and the test measure.")
    lines += ["", "## Next actions", ""]
    lines += [f"{place}. {action}" for place, action in enumerate(next_actions(story, outcome), 1)]
    paths = ("Logs/events.jsonl", "config/run.yaml", "config/policy.yaml", "config/origins.yaml")
    lines += ["", f"Evidence: {', '.join(link(path) for path in paths)}."]
    return "\n".join(lines) + "\n"


def _facts(story: Story) -> list[str]:
    training = story.configuration.training
    return table(
        ("profile", "dataset", "stages", "processes", "device", "seed", "began (UTC)", "decided (UTC)"),
        [
            (
                story.spec.profile,
                f"`{training.dataset}`",
                ", ".join(story.spec.stages) or "none",
                training.nproc_per_node,
                training.device,
                training.seed,
                f"{story.began:%Y-%m-%d %H:%M:%S}",
                f"{story.decided:%Y-%m-%d %H:%M:%S}",
            )
        ],
    )


def _stage(story: Story, stage: Stage, plot: str | None, problem: str | None) -> list[str]:
    attempts = list(story.of(stage))
    if not attempts:
        return []
    lines = ["", f"### {stage}", ""]
    if plot is not None:
        lines += [picture(plot, f"loss of {stage}, gates marked"), ""]
    elif problem is not None:
        lines += [f"No loss plot: {problem}.", ""]
    for attempt in attempts:
        if attempt.gate is not None:
            lines += _gate(attempt.gate, attempt)
        else:
            lines.append(f"- attempt {_number(attempt)}: no gate was decided.")
    return lines


def _gate(gate: GateDecided, attempt: Attempt) -> list[str]:
    patch = ", ".join(f"{key}={number(value)}" for key, value in gate.config_patch_applied.items()) or "none"
    checkpoint = gate.accepted_checkpoint or gate.resume_from
    role = "" if gate.accepted_checkpoint is not None else " (goes on from)"
    line = (
        f"- attempt {gate.attempt}, update {gate.gate_step} of {gate.target_step}: decision {gate.decision} "
        f"({gate.reason}), verdict {gate.verdict}, checkpoint{role} {link(checkpoint)}, "
        f"launcher {number(gate.launcher_pid)}, dual_gpu_ok {gate.dual_gpu_ok}, patch {patch}, "
        f"effective batch {gate.effective_batch}, retries {gate.retries_used} of {gate.retries_max}, "
        f"restarts {gate.restarts_used}{', degraded' if gate.degraded else ''}"
    )
    lines = [line]
    if gate.observed is not None:
        lines.append(f"  - {withheld_text(gate.observed)}")
    lines += [f"  - {reason_text(reason)}" for reason in gate.reasons]
    lines.append(f"  - evidence: {', '.join(link(path) for path in gate.evidence_paths) or 'none'}")
    tail = attempt.done.stderr_tail.strip() if attempt.done is not None else ""
    if tail and attempt.done is not None and attempt.done.reason not in ("completed", "stopped"):
        lines.append(
            f"  - last words of the training process: `{tail.splitlines()[-1].replace('`', chr(39))}`"
        )
    return lines


def reason_text(reason: Reason) -> str:
    """One check of a gate: what was measured against what."""
    check = f"check {reason.check} " if reason.check else ""
    measured = f"{number(reason.value)} against {number(reason.threshold)}"
    return f"{'ok' if reason.ok else '**failed**'}: {check}{reason.name}, {measured}: {reason.text}"


def withheld_text(withheld: Withheld) -> str:
    """What a gate of an observed run would have done."""
    patch = ", ".join(f"{key}={number(value)}" for key, value in withheld.config_patch.items()) or "none"
    start = link(withheld.resume_from) if withheld.resume_from is not None else "the beginning"
    where = f", from {start} to update {withheld.next_target_step}" if withheld.next_target_step else ""
    return f"**observed only**: would have decided {withheld.decision}{where}, patch {patch}"


def _changes(story: Story) -> list[str]:
    found = [change for stage in STAGES for change in changes(list(story.of(stage)))]
    if not found:
        return ["None: every chunk ran with the values the run began with."]
    return table(
        ("stage", "from attempt", "value", "before", "after"),
        [(c.stage, c.attempt, f"`{c.key}`", c.before, c.after) for c in found],
    )


def _checkpoints(story: Story) -> list[str]:
    if not story.selected:
        return ["None: no gate was accepted, and none was given."]
    rows = []
    for stage, path in story.selected.items():
        gate = story.accepted(stage)
        best = gate.best_checkpoint if gate is not None else None
        rows.append((stage, link(path), link(best) if best not in (None, path) else "the same"))
    return table(("stage", "checkpoint of the last accepted gate", "best checkpoint"), rows)


def _incidents(story: Story) -> list[str]:
    found = [f"{time:%H:%M:%S} operator: {_request(event)}" for time, event in story.requests]
    found += [f"{time:%H:%M:%S} {event.name} by {event.by}: {event.reason}" for time, event in story.pauses]
    found += [f"alert: {alert.stage} attempt {alert.attempt}: {alert.detail}" for alert in story.alerts]
    found += [f"launcher {event.pid} ended: {event.why}" for event in story.killed]
    found += [f"{event.name}: {event.id}, waited {event.waited_sec:.0f} s" for event in story.timed_out]
    return bullets(found, "Nothing.")


def _request(event: object) -> str:
    request = getattr(event, "request", "")
    refused = getattr(event, "reason", None)
    if refused is not None:
        return f"{request} was refused: {refused}"
    arguments = {key: value for key, value in getattr(event, "arguments", {}).items() if key != "spec"}
    return f"{request} {number(arguments)}".rstrip()


def _number(attempt: Attempt) -> int:
    event = attempt.starts[0] if attempt.starts else attempt.done
    return event.attempt if event is not None else 0
