"""How events become state. Recorded decisions are authoritative: nothing is judged here.

Three things are done as soon as the events allow it, so that a crash between a decision and its command loses
nothing: the next chunk becomes a plan, the inference test becomes due, the run begins to end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from services.gatekeeper.core.changes import chunks, gates, inference, runs, silence
from services.gatekeeper.core.state import RunState
from shared.bus.protocol import Recorded
from shared.events import (
    ArtifactEvidence,
    ChunkDone,
    ChunkEvent,
    ChunkStarted,
    CommandRejected,
    CommandTimedOut,
    Event,
    EvidenceTimedOut,
    GateDecided,
    GpuEvidence,
    InferenceDone,
    OperatorRequested,
    ReportWritten,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    StageBlocked,
    StageCompleted,
    StageStarted,
)


def fold(state: RunState, recorded: Recorded) -> RunState:
    """The state after an event; one whose id was seen, or about a chunk of the past, changes nothing.

    Raises:
        ValidationError: A `start_run` whose specification cannot be used.
    """
    event, sequence = recorded.message, recorded.sequence
    if not isinstance(event, Event) or event.run_id != state.run_id:
        return state
    handler = _HANDLERS.get(type(event))
    message_id = event.id
    if handler is None or message_id in state.seen:
        return state.past(sequence)
    if isinstance(event, ChunkEvent):
        chunk = state.chunk
        if chunk is None or not chunks.is_now(chunk, event) or message_id in chunk.seen:
            return state.past(sequence)
        return handler(state.past(sequence).with_chunk(replace(chunk, seen=chunk.seen | {message_id})), event)
    known = state.knowing(message_id, sequence)
    if known.spec is None and not isinstance(event, OperatorRequested):
        return known
    return handler(known, event)


_HANDLERS: dict[type[Event], Callable[[RunState, Any], RunState]] = {
    OperatorRequested: runs.requested,
    CommandRejected: runs.rejected,
    RunQueued: runs.queued,
    RunStarted: runs.started,
    RunPaused: runs.paused,
    RunResumed: runs.resumed,
    StageStarted: chunks.stage_started,
    ChunkStarted: chunks.chunk_started,
    ChunkDone: chunks.chunk_done,
    GpuEvidence: chunks.gpu,
    ArtifactEvidence: chunks.artifacts,
    EvidenceTimedOut: chunks.evidence_timed_out,
    GateDecided: gates.decided,
    StageCompleted: gates.stage_completed,
    StageBlocked: gates.stage_blocked,
    InferenceDone: inference.done,
    CommandTimedOut: silence.command_timed_out,
    ReportWritten: runs.report_written,
    RunFinished: runs.finished,
}
