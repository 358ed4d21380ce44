"""How a run ended, each time it did, out of its events; or where it is."""

from __future__ import annotations

from collections.abc import Sequence

from services.reporter.core.story import Outcome, Story, tell
from shared.bus.protocol import Recorded
from shared.events import (
    GateDecided,
    OperatorRequested,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
)


def endings(records: Sequence[Recorded]) -> list[tuple[Story, Outcome]]:
    """What was told each time the run ended, oldest first; then where it is, if it goes on.

    A run that was stopped, resumed and passed has two: its reports were written twice.
    """
    found: list[tuple[Story, Outcome]] = []
    going_on = True
    for place, record in enumerate(records):
        event = record.message
        if isinstance(event, RunFinished):
            story = tell(records[: place + 1])
            if story is not None:
                found.append((story, Outcome(event.status, event.reason, event.degraded)))
            going_on = False
        elif isinstance(event, RunResumed) or _asks_to_go_on(event):
            going_on = True
    story = tell(records, ended=False) if going_on else None
    if story is not None:
        found.append((story, _present(story, records)))
    return found


def _asks_to_go_on(event: object) -> bool:
    return isinstance(event, OperatorRequested) and event.request == "resume_run"


def _present(story: Story, records: Sequence[Recorded]) -> Outcome:
    degraded = any(gate.degraded for _, gate in story.decisions)
    states = (RunStarted, RunQueued, RunPaused, RunResumed, RunFinished)
    newest = next((each.message for each in reversed(records) if isinstance(each.message, states)), None)
    if isinstance(newest, RunQueued):
        return Outcome("queued", f"it waits behind {', '.join(newest.behind) or 'another run'}", degraded)
    if isinstance(newest, RunPaused):
        return Outcome("paused", newest.reason, degraded)
    return Outcome("running", _doing(story, records), degraded)


def _doing(story: Story, records: Sequence[Recorded]) -> str:
    """What the last events say is going on."""
    if any(isinstance(each.message, GateDecided) for each in records[-1:]):
        return "a gate was decided, and what follows from it had not begun"
    attempt = list(story.attempts.values())[-1] if story.attempts else None
    if attempt is None or not attempt.starts:
        return "no training had begun"
    stage, number = attempt.starts[0].stage, attempt.number
    if attempt.done is None:
        return f"{stage} attempt {number} was training towards update {attempt.starts[0].plan.target_step}"
    if attempt.gate is None:
        return f"{stage} attempt {number} was trained and waited for its gate"
    return f"{stage} attempt {number} was the last that was judged"
