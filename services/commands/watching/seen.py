"""What `worldloop watch` sees of a run in its files: a diagnosis, and how long each channel is silent.

Pure: values in, values out. The numbers are the diagnosis's, the rule of silence is the monitor's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from services.commands.terminal.text import span
from services.diagnosis.core.model import (
    SEVERITIES,
    Checkpoint,
    Diagnosis,
    Part,
    Severity,
    StageDiagnosis,
    worst,
)
from services.monitor.core.checkpoints import EMPTY, STALE
from services.monitor.core.freshness import silences
from shared.events import Stage

Activity = Literal["running", "over"]


@dataclass(frozen=True, slots=True)
class Signs:
    """A stage's signs of life, as unix times."""

    began: float
    """The oldest trace of it."""
    last: Mapping[str, float | None]
    """Channel -> its newest change, none if there was none."""
    ended: bool
    """Its W&B file says that it ended, or its target is reached."""

    @property
    def newest(self) -> float:
        """The last sign of any kind."""
        return max([self.began, *(at for at in self.last.values() if at is not None)])


class Channel(Part):
    """One channel of a stage."""

    name: str
    """history, checkpoint, visualization."""
    ever: bool
    """There was a sign of life."""
    age_sec: float
    """Since the last one, or since the stage began."""
    limit_sec: float
    silent: bool
    """The stage is running, and this is beyond the limit."""


class StageView(Part):
    """One stage."""

    stage: Stage
    activity: Activity
    verdict: Severity
    """The diagnosis's; a silent channel is `watch` at least."""
    step: int | None
    target: int | None
    loss: float | None
    updates_per_sec: float | None
    checkpoint: Checkpoint | None
    """The newest one, valid or not."""
    being_written: bool
    """The newest one changed a moment ago."""
    sheet: str | None
    """The newest one that can be read."""
    sheet_step: int | None
    sheet_ok: bool | None
    sheet_numbers: dict[str, float]
    channels: list[Channel]
    findings: list[str]
    """What is wrong, worst first."""


class RunSeen(Part):
    """All of it: what `worldloop watch --path --json` prints."""

    path: str
    time: str
    """Of the look, ISO 8601."""
    state: Severity
    """The worst of the stages; the exit code is 0 for normal alone."""
    status: str | None
    """Of a run of ours: running, passed, ..."""
    stages: list[StageView]
    alerts: dict[str, str]
    """What stands now: `<stage>/<channel>` -> a sentence."""
    notes: list[str]


def see(
    found: Diagnosis,
    signs: Mapping[Stage, Signs],
    *,
    limits: Mapping[str, float],
    writing_sec: float,
    ended: bool,
    now: float,
) -> RunSeen:
    """Put a diagnosis and signs of life together.

    Only the stage with the newest sign of life can be running: stages are trained one after the other.

    Args:
        found: The run, diagnosed.
        signs: Of its stages.
        limits: Channel -> seconds it may be silent.
        writing_sec: A checkpoint that changed so recently may still be being written.
        ended: The run as a whole is over.
        now: Unix time.
    """
    alerts: dict[str, str] = {}
    newest = max(signs, key=lambda stage: signs[stage].newest, default=None)
    stages = []
    for stage in found.stages:
        running = stage.stage == newest and not ended and not signs[stage.stage].ended
        view = _stage(stage, signs[stage.stage], limits, running=running, writing_sec=writing_sec, now=now)
        stages.append(view)
        if running:
            alerts |= _alerts(stage, signs[stage.stage], limits, now)
    return RunSeen(
        path=found.path,
        time=datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
        state=worst([*(stage.verdict for stage in stages), *(each.severity for each in found.findings)]),
        status=found.status,
        stages=stages,
        alerts=alerts,
        notes=list(dict.fromkeys(found.notes)),
    )


def _stage(
    found: StageDiagnosis,
    signs: Signs,
    limits: Mapping[str, float],
    *,
    running: bool,
    writing_sec: float,
    now: float,
) -> StageView:
    last = found.checkpoints[-1] if found.checkpoints else None
    fresh = [each for each in found.checkpoints if now - each.modified < writing_sec]
    unwritten = [each for each in found.checkpoints if not each.valid]
    only_unwritten = bool(unwritten) and all(each in fresh for each in unwritten)
    findings = [
        finding for finding in found.findings if not (only_unwritten and finding.name == "checkpoint_invalid")
    ]
    channels = [
        Channel(
            name=each.channel,
            ever=signs.last[each.channel] is not None,
            age_sec=each.seconds,
            limit_sec=each.limit,
            silent=running and each.too_long,
        )
        for each in silences(signs.last, limits, began=signs.began, now=now)
    ]
    late = found.visuals.late
    silent: Severity = "watch" if any(channel.silent for channel in channels) else "normal"
    return StageView(
        stage=found.stage,
        activity="running" if running else "over",
        verdict=worst([silent, *(finding.severity for finding in findings)]),
        step=found.step,
        target=found.target,
        loss=found.loss.final if found.loss is not None else None,
        updates_per_sec=found.throughput.updates_per_sec if found.throughput is not None else None,
        checkpoint=last,
        being_written=last is not None and not last.valid and last in fresh,
        sheet=late.path if late is not None else None,
        sheet_step=late.step if late is not None else None,
        sheet_ok=late.ok if late is not None else None,
        sheet_numbers=late.numbers if late is not None else {},
        channels=channels,
        findings=[f"{finding.severity}: {finding.text}" for finding in findings],
    )


def _alerts(found: StageDiagnosis, signs: Signs, limits: Mapping[str, float], now: float) -> dict[str, str]:
    silent = {
        each.channel: each.text(f"a running {found.stage}")
        for each in silences(signs.last, limits, began=signs.began, now=now)
        if each.too_long
    }
    trouble = {finding.name: finding.text for finding in found.findings if finding.name in (EMPTY, STALE)}
    return {f"{found.stage}/{channel}": text for channel, text in {**silent, **trouble}.items()}


# --- as text ----------------------------------------------------------------------------------------------


def lines(seen: RunSeen) -> Iterator[str]:
    """What was seen, for people and for `Logs/monitor_latest.info`."""
    status = f"  {seen.status}" if seen.status is not None else ""
    yield f"{seen.time}  {seen.state.upper()}  {seen.path}{status}"
    for stage in sorted(seen.stages, key=lambda stage: stage.activity == "running"):
        yield _headline(stage)
        ages = {channel.name: _age(stage, channel) for channel in stage.channels}
        yield f"  history        {ages['history']}"
        yield f"  checkpoint     {ages['checkpoint']}{_checkpoint(stage)}"
        yield f"  visualization  {ages['visualization']}{_sheet(stage)}"
        yield from _numbers(stage)
        yield from (f"  {text}" for text in stage.findings)
    yield from (f"note: {note}" for note in seen.notes)
    yield from (f"ALERT {text}" for text in seen.alerts.values())


def _headline(stage: StageView) -> str:
    target = f" of {stage.target}" if stage.target is not None else ""
    loss = f"  loss {stage.loss:.5g}" if stage.loss is not None else ""
    rate = f"  {stage.updates_per_sec:.3g} updates/s" if stage.updates_per_sec is not None else ""
    step = stage.step if stage.step is not None else "-"
    return f"{stage.stage:<16} {stage.activity:<8} {stage.verdict:<9} step {step}{target}{loss}{rate}"


def _checkpoint(stage: StageView) -> str:
    last = stage.checkpoint
    if last is None:
        return ""
    state = "being written" if stage.being_written else f"INVALID: {last.problem}"
    if last.valid:
        state = "valid" if last.contents else "its files are there, their contents were not read"
    return f"  {last.path.rpartition('/')[2]}, {state}"


def _sheet(stage: StageView) -> str:
    if stage.sheet is None:
        return ""
    state = "ok" if stage.sheet_ok else "STRUCTURE LOST"
    return f"  {stage.sheet.rpartition('/')[2]}, {state}"


def _numbers(stage: StageView) -> Iterator[str]:
    if stage.sheet_numbers:
        yield "    " + "  ".join(f"{name} {value:.2g}" for name, value in stage.sheet_numbers.items())


def _age(stage: StageView, channel: Channel) -> str:
    if stage.activity == "over":
        return f"{span(channel.age_sec)} ago" if channel.ever else "none"
    silent = "SILENT " if channel.silent else ""
    age = f"{span(channel.age_sec)} ago" if channel.ever else f"none for {span(channel.age_sec)}"
    return f"{silent}{age} (limit {span(channel.limit_sec)})"


def exit_code(seen: RunSeen) -> int:
    """0 for normal, 1 for watch and critical: the answer is no."""
    return min(1, SEVERITIES.index(seen.state))
