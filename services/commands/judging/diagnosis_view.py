"""How a diagnosis looks on a terminal: first what is wrong, what to trust, what to do; then the tables."""

from __future__ import annotations

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from services.commands.terminal.output import CleanConsole
from services.diagnosis.core.model import (
    Action,
    Criterion,
    Diagnosis,
    Finding,
    Part,
    Picture,
    Severity,
    StageDiagnosis,
)

COLOURS: dict[Severity, str] = {"normal": "green", "watch": "yellow", "critical": "red"}
WRONG_SHOWN = 5


def show(found: Diagnosis) -> None:
    """Print a diagnosis on stdout."""
    console = CleanConsole(highlight=False, soft_wrap=True)
    tables = CleanConsole(highlight=False)
    for line in _head(found):
        console.print(line)
    inside = f"{found.path}/"
    if any(inside in line for stage in found.stages for line in _stage_lines(stage)):
        console.print(f"\nbelow, files are named from {escape(found.path)}")
    for stage in found.stages:
        console.print()
        console.print(_title(stage))
        for line in _stage_lines(stage):
            console.print(f"  {escape(line.replace(inside, ''))}")
    console.print()
    if any(stage.loss for stage in found.stages):
        tables.print(_numbers(found.stages))
    if any(stage.gates for stage in found.stages):
        tables.print(_gates(found.stages))
    if any(stage.checkpoints for stage in found.stages):
        tables.print(_checkpoints(found.stages))
    if any(stage.visuals.late for stage in found.stages):
        tables.print(_pictures(found.stages))
    tables.print(_criteria(found))
    for note in found.notes:
        console.print(f"note: {escape(note)}")


def _head(found: Diagnosis) -> Iterable[str]:
    what = f"{found.kind} {found.run_id}" if found.run_id else found.kind
    status = f", {found.status}" if found.status else ""
    colour = COLOURS[found.verdict]
    where = escape(f"{found.path} ({what}{status}; judged by {found.policy})")
    yield f"[bold {colour}]{found.verdict.upper()}[/]  {where}"
    if not found.wrong:
        yield "wrong:  nothing"
    for number, text in enumerate(found.wrong[:WRONG_SHOWN]):
        yield f"{'wrong:' if number == 0 else '':<7} {escape(text)}"
    if len(found.wrong) > WRONG_SHOWN:
        yield f"{'':<7} and {len(found.wrong) - WRONG_SHOWN} more, below"
    cause = found.cause
    roles = f" (latent_actions {_words(cause.latent_actions)}, dynamics {_words(cause.dynamics)})"
    found_out = cause.primary not in ("none", "undetermined")
    yield f"cause:  {cause.primary}{roles if found_out else ''}: {escape(cause.text)}"
    trusted = [stage.fallback for stage in found.stages if stage.fallback is not None]
    for number, each in enumerate(trusted):
        read = "read through" if each.contents else "contents not validated"
        yield f"{'trust:' if number == 0 else '':<7} {escape(each.path)} ({each.step} updates, {read})"
    if not trusted:
        yield "trust:  no checkpoint"
    yield from _actions("change now", found.change_now)
    yield from _actions("next cycle", found.next_cycle)


def _actions(title: str, actions: list[Action]) -> Iterable[str]:
    if actions:
        yield f"[bold]{title}[/]"
    for number, action in enumerate(actions, start=1):
        yield f"  {number}. {escape(action.text)}"
        yield f"     because {escape(action.why)}"


def _title(stage: StageDiagnosis) -> str:
    target = f" of {stage.target}" if stage.target is not None else ""
    step = f"step {stage.step}{target}" if stage.step is not None else "no step known"
    return f"[bold]{stage.stage}[/]  [{COLOURS[stage.verdict]}]{stage.verdict}[/]  {step}"


def _stage_lines(stage: StageDiagnosis) -> Iterable[str]:
    for finding in stage.findings:
        yield f"{finding.severity}: {finding.text}"
        yield from _evidence(finding)
    for path in stage.histories:
        yield f"history: {path}"
    if stage.throughput is not None:
        frames = stage.throughput.frames_per_sec
        speed = f"{stage.throughput.updates_per_sec:.3g} updates/s"
        yield f"{speed}{f', {frames:.4g} frames/s' if frames else ''}, by {stage.throughput.measured_on}"
    yield from (f"note: {note}" for note in stage.notes)


def _evidence(finding: Finding | Criterion) -> Iterable[str]:
    if finding.evidence:
        more = f" and {len(finding.evidence) - 3} more" if len(finding.evidence) > 3 else ""
        yield f"  evidence: {', '.join(finding.evidence[:3])}{more}"


def _numbers(stages: list[StageDiagnosis]) -> Table:
    """A column for each stage, a row for each number."""
    table = Table("number", *(stage.stage for stage in stages), title="numbers", title_justify="left")
    rows: dict[str, list[str]] = {}
    for place, stage in enumerate(stages):
        windows = stage.loss.windows if stage.loss is not None else None
        for name, part in (("loss", stage.loss), ("windows", windows), ("actions", stage.actions)):
            for key, value in _values(part):
                rows.setdefault(f"{name} {key}", ["-"] * len(stages))[place] = value
    for name, cells in rows.items():
        table.add_row(name.replace("_", " "), *cells)
    return table


def _values(part: Part | object | None) -> Iterable[tuple[str, str]]:
    if part is None:
        return
    for key, value in dict(part).items():  # type: ignore[call-overload]
        if isinstance(value, int | float):
            yield key, f"{value:.4g}" if isinstance(value, float) else str(value)


def _gates(stages: list[StageDiagnosis]) -> Table:
    table = Table("stage", "gate", "step", "verdict", "what failed", title="gates", title_justify="left")
    for stage in stages:
        for gate in stage.gates:
            failed = escape("; ".join(dict.fromkeys(gate.failed)))
            table.add_row(stage.stage, gate.name, str(gate.step), gate.verdict, failed)
    return table


def _checkpoints(stages: list[StageDiagnosis]) -> Table:
    """Checkpoints by the name of their directory: a whole path leaves no room for the rest."""
    table = Table("checkpoint", "updates", "MB", "state", title="checkpoints", title_justify="left")
    for stage in stages:
        for each in stage.checkpoints:
            state = f"[red]{escape(each.problem or 'invalid')}[/]"
            if each.valid:
                state = "valid" if each.contents else "not read, files are there"
            name = each.path.rpartition("/")[2]
            table.add_row(escape(name), str(each.step), f"{each.size_bytes / 1e6:.1f}", state)
    return table


def _pictures(stages: list[StageDiagnosis]) -> Table:
    table = Table("stage", "picture", "step", "numbers", "verdict", title="pictures", title_justify="left")
    for stage in stages:
        for name, picture in (("early", stage.visuals.early), ("late", stage.visuals.late)):
            if picture is not None:
                numbers = ", ".join(f"{key} {value:.3g}" for key, value in picture.numbers.items())
                table.add_row(stage.stage, name, str(picture.step), numbers, _structure(picture))
    return table


def _structure(picture: Picture) -> str:
    return escape(picture.text) if picture.ok else f"[red]{escape(picture.text)}[/]"


def _criteria(found: Diagnosis) -> Table:
    title = "criteria of the cause: a stage is primary when most of its own hold"
    table = Table("stage", "criterion", "holds", "value", "limit", "seen", title=title, title_justify="left")
    parts = (("latent_actions", found.cause.latent_criteria), ("dynamics", found.cause.dynamics_criteria))
    for stage, criteria in parts:
        for each in criteria:
            holds = "?" if each.holds is None else "yes" if each.holds else "no"
            value = "-" if each.value is None else f"{each.value:.3g}"
            table.add_row(stage, each.question, holds, value, f"{each.threshold:g}", escape(each.text))
    return table


def _words(role: str) -> str:
    return role.replace("_", " ")
