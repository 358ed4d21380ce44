"""What people are told of a run while they are away: which events are worth a message, and its words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from services.reporter.core.markdown import duration, number
from shared.bus.protocol import Recorded
from shared.events import (
    AlertRaised,
    GateDecided,
    InferenceDone,
    Message,
    ReportWritten,
    RunFinished,
    RunPaused,
    SpecEvent,
    StageBlocked,
    StageCompleted,
)

Told = Literal["paused", "blocked", "failed", "passed", "stopped", "stage_completed", "alert"]
TOLD: tuple[Told, ...] = get_args(Told)
"""What can be told, as `tell` of the notification file names it."""
Level = Literal["info", "success", "warning", "failure"]

SHOWN = 10
"""Notices of a gathered message that are shown in full."""
_BEST_FIRST = ("inference", "retrospective", "loop")
"""Reports a reader should open, the best first."""

E = TypeVar("E", bound=Message)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the reader finds more."""

    bundle: str | None
    """The run's directory on the reporter's machine."""
    page: str | None
    """Address of the live page."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something of a run that people should know."""

    about: Told
    title: str
    lines: tuple[str, ...]
    """Why, with its numbers; what to do; where more is."""
    level: Level
    picture: str | None = None
    """In the bundle: what the inference test looked like."""


@dataclass(frozen=True, slots=True)
class Text:
    """A message as it is sent: one notice, or several that were gathered."""

    title: str
    body: str
    level: Level


def notice(event: Message, records: Sequence[Recorded], place: Place) -> Notice | None:
    """What an event is worth telling; none for most.

    Args:
        event: The event.
        records: The run's events so far, those after it included or not.
        place: Where the reader finds more.
    """
    write = _WRITERS.get(type(event))
    if write is None:
        return None
    about, headline, level, lines, advice = write(event, _before(event, records))
    footer = [f"run {event.run_id}" + (f": {place.bundle}" if place.bundle is not None else "")]
    report = _report(records) if isinstance(event, RunFinished) else None
    footer += [f"report: {report}"] if report is not None else []
    footer += [f"page: {place.page}"] if place.page is not None else []
    tested = _last(records, InferenceDone) if isinstance(event, RunFinished) else None
    return Notice(
        about,
        f"worldloop: {_name(event, records)} {headline}",
        (*lines, *(f"-> {each}" for each in advice), *footer),
        level,
        tested.picture if tested is not None else None,
    )


def text(notices: Sequence[Notice]) -> Text:
    """One message of one or more notices: the gravest gives the title, the newest come first."""
    newest = list(reversed(notices))
    grave = max(newest, key=lambda each: _GRAVITY.index(each.level))
    if len(newest) == 1:
        return Text(grave.title, "\n".join(grave.lines), grave.level)
    parts = ["\n".join((each.title, *each.lines)) for each in newest[:SHOWN]]
    if len(newest) > SHOWN:
        parts += [f"and {len(newest) - SHOWN} more before these"]
    return Text(f"{grave.title} (and {len(newest) - 1} more)", "\n\n".join(parts), grave.level)


def wait_sec(notices: Sequence[Notice], since_last_sec: float | None, every_sec: float) -> float:
    """How long to gather before a message is sent: only alerts wait, until the last message is old enough.

    Args:
        notices: What is to be sent.
        since_last_sec: Age of the last message to the same service; none if there was none.
        every_sec: Smallest time between two messages of alerts.
    """
    if since_last_sec is None or any(each.about != "alert" for each in notices):
        return 0.0
    return max(0.0, every_sec - since_last_sec)


def trial(service: str) -> Text:
    """The message of `worldloop notify test`."""
    return Text(
        "worldloop: a test",
        f"This is a test of `{service}`. Nothing has happened; the next message will be about a run.",
        "info",
    )


_GRAVITY: tuple[Level, ...] = ("info", "success", "warning", "failure")
_Told = tuple[Told, str, Level, list[str], list[str]]
"""What it is, headline, level, why with numbers, what to do."""


def _paused(event: RunPaused, before: Sequence[Recorded]) -> _Told:
    if event.by == "operator":
        advice = [f"`worldloop resume {event.run_id}` goes on, `worldloop stop {event.run_id}` ends it"]
    else:
        advice = [
            "it goes on by itself when the evidence comes",
            "if it does not: is the monitor alive? `worldloop up` says so",
        ]
    return "paused", "paused", "warning", [event.reason, *_gate(before)], advice


def _blocked(event: StageBlocked, before: Sequence[Recorded]) -> _Told:
    lines = [f"{event.stage} cannot go on: {'; '.join(event.blocking_factors) or 'no reason given'}"]
    lines += [*_gate(before, why=False), f"best checkpoint: {event.best_checkpoint or 'none'}"]
    advice = ["the reports are being written; they say what to change"]
    return "blocked", f"is blocked at {event.stage}", "failure", lines, advice


def _completed(event: StageCompleted, before: Sequence[Recorded]) -> _Told:
    lines = [f"{event.stage} reached its target: {event.step} updates", *_gate(before)]
    lines += [f"checkpoint: {event.checkpoint}"]
    return "stage_completed", f"completed {event.stage}", "info", lines, []


def _finished(event: RunFinished, before: Sequence[Recorded]) -> _Told:
    lines = [event.reason] + (["degraded: the report says why"] if event.degraded else [])
    tested = _last(before, InferenceDone)
    if tested is not None and tested.ok:
        numbers = {
            tested.gated_by: tested.gating,
            "skill": tested.skill,
            "PSNR": tested.psnr,
            "tokenizer MSE": tested.tokenizer_mse,
        }
        shown = ", ".join(f"{name} {number(value)}" for name, value in numbers.items() if value is not None)
        lines += [f"inference test {tested.inference_try}: {shown}"] if shown else []
    else:
        lines += _gate(before)
    match event.status:
        case "passed":
            mode = f" ({event.mode})" if event.mode != "autoregressive" else ""
            return "passed", f"passed{mode}", "success", lines, [f"`worldloop play {event.run_id}`"]
        case "stage_completed":
            return "stage_completed", "completed what was asked for", "success", lines, []
        case "stopped":
            advice = [f"`worldloop train --resume {event.run_id}` goes on"]
            return "stopped", "stopped", "warning", lines, advice
        case _:
            advice = ["read the report", f"`worldloop train --resume {event.run_id}` tries on"]
            return "failed", event.status, "failure", lines, advice


def _alert(event: AlertRaised, before: Sequence[Recorded]) -> _Told:  # noqa: ARG001 - all have one shape
    where = f" ({event.stage}, attempt {event.attempt})" if event.stage is not None else ""
    if event.limit_sec:
        silence, limit = duration(event.silence_sec), duration(event.limit_sec)
        lines = [f"{event.channel} has been silent for {silence}, the limit is {limit}{where}"]
    else:
        lines = [f"{event.channel}{where}"]
    lines += [event.detail] if event.detail else []
    advice = [f"`worldloop status {event.run_id}`; a hung trainer is ended with `worldloop stop`"]
    return "alert", f"alert: {event.channel}", "warning", lines, advice


_WRITERS: Mapping[type[Message], Callable[[Any, Sequence[Recorded]], _Told]] = {
    RunPaused: _paused,
    StageBlocked: _blocked,
    StageCompleted: _completed,
    RunFinished: _finished,
    AlertRaised: _alert,
}
WORTH_TELLING: tuple[str, ...] = tuple(sorted(cls.name for cls in _WRITERS))
"""Names of the events that have a notice."""


def _gate(before: Sequence[Recorded], *, why: bool = True) -> list[str]:
    """The newest gate in a line, with the checks that failed if nothing else tells why."""
    gate = _last(before, GateDecided)
    if gate is None:
        return []
    failed = "; ".join(reason.text for reason in gate.reasons if not reason.ok)
    head = f"last gate: {gate.stage} at {gate.gate_step} of {gate.target_step}, {gate.verdict}"
    used = f"retries {gate.retries_used} of {gate.retries_max}"
    return [f"{head} ({gate.reason}), {used}" + (f": {failed}" if failed and why else "")]


def _report(records: Sequence[Recorded]) -> str | None:
    """The report to open: of the newest ones that were written, the one that tells most."""
    written = {r.message.report: r.message.path for r in records if isinstance(r.message, ReportWritten)}
    return next((path for kind in _BEST_FIRST if (path := written.get(kind)) is not None), None)


def _name(event: Message, records: Sequence[Recorded]) -> str:
    begun = (r.message for r in records if isinstance(r.message, SpecEvent))
    return next((message.spec.run_name for message in begun), event.run_id)


def _before(event: Message, records: Sequence[Recorded]) -> Sequence[Recorded]:
    place = next((n for n, record in enumerate(records) if record.message.id == event.id), len(records))
    return records[:place]


def _last(records: Sequence[Recorded], kind: type[E]) -> E | None:
    return next((r.message for r in reversed(records) if isinstance(r.message, kind)), None)
