"""How a stage begins and what comes in about the chunk that is out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from services.gatekeeper.core.changes.onward import advance, end_if_stopped
from services.gatekeeper.core.state import Accepted, Chunk, Next, RunState, StageState
from shared.events import (
    ArtifactEvidence,
    ChunkDone,
    ChunkEvent,
    ChunkStarted,
    EvidenceTimedOut,
    GateDecided,
    GpuEvidence,
    StageStarted,
    StartChunk,
)


def stage_started(state: RunState, event: StageStarted) -> RunState:
    """The stage begins: fresh, or at a checkpoint, which counts as an accepted gate."""
    stage = state.stages.get(event.stage)
    if stage is None:
        return state
    start, target = event.start_step, event.target_step
    accepted = stage.accepted
    if accepted is None and event.resume_from is not None:  # given: counts as an accepted gate
        accepted = Accepted(start, event.resume_from)
    begun = replace(
        stage,
        ordinal=event.ordinal,
        begun=True,
        target=target,
        accepted=accepted,
        best=stage.best or accepted,
        highest=max(stage.highest, accepted.step if accepted is not None else 0),
        newest=(event.resume_from, start) if event.resume_from is not None else None,
        next=Next(StartChunk, event.resume_from, start, min(start + stage.chunk, target))
        if start < target
        else None,
    )
    return advance(state.with_stage(begun))


def chunk_started(state: RunState, event: ChunkStarted) -> RunState:
    """The trainer took the plan."""
    return _with_chunk(state, started=event)


def chunk_done(state: RunState, event: ChunkDone) -> RunState:
    """The trainer is done with the plan."""
    if state.chunk is not None and state.chunk.done is not None:
        return state
    state = _with_chunk(state, done=event)
    stage = state.stages[event.stage]
    return end_if_stopped(state.with_stage(replace(stage, newest=_newest(stage, event))))


def _newest(stage: StageState, event: ChunkDone) -> tuple[str, int] | None:
    """The newest valid checkpoint: the one known before, too, if the trainer does not say otherwise."""
    listed = {info.path for info in event.checkpoints}
    known = [(info.path, info.step) for info in event.checkpoints if info.valid]
    if stage.newest is not None and stage.newest[0] not in listed:
        known.append(stage.newest)
    return max(known, key=lambda found: found[1], default=None)


def gpu(state: RunState, event: GpuEvidence) -> RunState:
    """The evidence of the GPUs is there."""
    return _with_chunk(state, gpu=event)


def artifacts(state: RunState, event: ArtifactEvidence) -> RunState:
    """The evidence of the files is there."""
    return _with_chunk(state, artifacts=event)


def evidence_timed_out(state: RunState, _: EvidenceTimedOut) -> RunState:
    """The wait for evidence is over."""
    return _with_chunk(state, timed_out=True)


def _with_chunk(state: RunState, **changes: Any) -> RunState:
    assert state.chunk is not None  # `fold` lets no event about another one through
    return state.with_chunk(replace(state.chunk, **changes))


def is_now(chunk: Chunk | None, event: ChunkEvent | GateDecided) -> bool:
    """Whether the event is about the chunk that is out: others are fenced off by their attempt."""
    return chunk is not None and (event.stage, event.attempt) == (chunk.plan.stage, chunk.plan.attempt)
