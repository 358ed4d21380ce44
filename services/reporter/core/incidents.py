"""What went on beside the gates: what operators, alerts, relaunches and the clock did."""

from __future__ import annotations

from services.reporter.core.hostile import inline
from services.reporter.core.markdown import LONG, bullets, count_of, folded, shown
from services.reporter.core.story import Story
from services.reporter.core.unanswered import unanswered
from shared.events import (
    CommandRejected,
    CommandTimedOut,
    EvidenceTimedOut,
    OperatorRequested,
    RunPaused,
    RunResumed,
)


def incidents(story: Story) -> list[str]:
    """One line each; in the order of time where the time is known."""
    found = [(time, _request(event)) for time, event in story.requests]
    found += [(time, f"{_done(event)} by {event.by}: {inline(event.reason)}") for time, event in story.pauses]
    found += [
        (time, f"the run had ended, {event.status}: {inline(event.reason)}") for time, event in story.endings
    ]
    lines = [f"{time:%Y-%m-%d %H:%M:%S} {text}" for time, text in sorted(found, key=lambda each: each[0])]
    for attempt in story.attempts.values():
        again = [start for start in attempt.starts[1:] if not start.recount]
        if again:
            name = f"{again[0].stage} attempt {again[0].attempt}"
            lines.append(f"{name}: interrupted and launched again, {count_of(len(again), 'time')}")
    lines += [f"alert: {_of(alert.stage, alert.attempt)}{inline(alert.detail)}" for alert in story.alerts]
    lines += [f"launcher {event.pid} was ended: {inline(event.why)}" for event in story.killed]
    lines += [_late(event) for event in story.timed_out]
    told = bullets(lines, "Nothing.")
    return folded(count_of(len(lines), "incident"), told) if len(lines) > LONG else told


def _done(event: RunPaused | RunResumed) -> str:
    return "paused" if isinstance(event, RunPaused) else "resumed"


def _request(event: OperatorRequested | CommandRejected) -> str:
    if isinstance(event, CommandRejected):
        return f"operator: {inline(event.request)} was refused: {inline(event.reason)}"
    arguments = {key: value for key, value in event.arguments.items() if key != "spec"}
    told = ", ".join(f"{inline(key)}: {shown(value)}" for key, value in arguments.items())
    return f"operator: {event.request}{f' ({told})' if told else ''}"


def _of(stage: str | None, attempt: int | None) -> str:
    return "" if stage is None else f"{stage}: " if attempt is None else f"{stage} attempt {attempt}: "


def _late(event: EvidenceTimedOut | CommandTimedOut) -> str:
    if isinstance(event, EvidenceTimedOut):
        missing = " and ".join(map(inline, event.missing))
        where = f"{event.stage} attempt {event.attempt}"
        return f"{where}: no {missing} came within {event.waited_sec:.0f} s"
    return unanswered(event)
