"""Events that a person may want to know of, as a line each."""

from __future__ import annotations

from services.reporter.core.markdown import number
from services.reporter.core.page.model import Level, Note
from services.reporter.core.unanswered import unanswered
from shared.bus.protocol import Recorded
from shared.events import (
    AlertRaised,
    ChunkStarted,
    CommandRejected,
    CommandTimedOut,
    EvidenceTimedOut,
    LauncherKilled,
    OperatorRequested,
    ReportWritten,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    StageBlocked,
    StageCompleted,
)


def note(recorded: Recorded) -> Note | None:
    """The line about an event; none if it is nothing to tell, or told elsewhere on the page."""
    found = _text(recorded)
    if found is None:
        return None
    level, text = found
    return Note(id=str(recorded.sequence), time=recorded.time.timestamp(), level=level, text=text)


def _text(recorded: Recorded) -> tuple[Level, str] | None:
    match recorded.message:
        case RunQueued(behind=behind):
            return "info", f"Waits behind {', '.join(behind)}" if behind else "Waits for the trainer"
        case RunStarted():
            return "info", "The run started"
        case OperatorRequested(request=request, arguments=arguments):
            told = {key: value for key, value in arguments.items() if key != "spec"}
            return "info", f"Operator: {request.replace('_', ' ')} {number(told)}".rstrip()
        case CommandRejected(request=request, reason=reason):
            return "watch", f"{request.replace('_', ' ')} was refused: {reason}"
        case ChunkStarted(launch=launch, recount=False) as event if launch > 1:
            return "watch", (
                f"{event.stage} attempt {event.attempt} was launched again (launch {launch}): "
                "its process died or hung"
            )
        case LauncherKilled(pid=pid, why=why):
            return "watch", f"Launcher {pid} was ended: {why}"
        case AlertRaised() as event:
            silent = f"{event.channel} silent for {event.silence_sec:.0f} s (limit {event.limit_sec:.0f} s)"
            return "watch", f"Alert: {event.detail or silent}"
        case EvidenceTimedOut() as event:
            return "watch", f"No {' and no '.join(event.missing)} within {event.waited_sec:.0f} s"
        case CommandTimedOut() as event:
            sentence = unanswered(event)
            return "watch", sentence[0].upper() + sentence[1:]
        case RunPaused(by=by, reason=reason):
            return "info" if by == "operator" else "watch", f"Paused: {reason}"
        case RunResumed(reason=reason):
            return "info", f"Resumed: {reason}"
        case StageCompleted(stage=stage, step=step):
            return "good", f"{stage} is complete at update {step}"
        case StageBlocked(stage=stage, blocking_factors=factors):
            return "bad", f"{stage} is blocked: {factors[0] if factors else 'no reason given'}"
        case ReportWritten(ok=False) as event:
            return "bad", f"The {event.report} report could not be written: {event.error}"
        case RunFinished() as event:
            level: Level = "good" if event.status in ("passed", "stage_completed") else "bad"
            level = "info" if event.status == "stopped" else level
            return level, f"The run ended as {event.status}: {event.reason}"
    return None
