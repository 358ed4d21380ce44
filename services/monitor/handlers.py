"""What the monitor does with each message."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeGuard

from services.monitor.core.chunks import Chunk, key
from services.monitor.evidence import artifact_evidence, gpu_evidence
from services.monitor.watch import Deps, read_gpus
from shared.events import (
    AlertRaised,
    ArtifactEvidence,
    ChunkDone,
    ChunkStarted,
    Event,
    GpuEvidence,
    Message,
    RunFinished,
)
from shared.service import Handler


async def chunk_started(message: ChunkStarted, deps: Deps) -> list[Message]:
    """Open the chunk's window: GPUs are read and channels watched from now on."""
    record = await deps.bus.last_event(message.run_id, message.name)
    if record is None:
        deps.chunks.fold(message, deps.clock())
    elif record.message.id == message.id:
        deps.chunks.fold(message, record.time.timestamp())
    elif _is_another_chunk(record.message, message):  # it comes late, and the run went on: so does the watch
        deps.chunks.fold(record.message, record.time.timestamp())
    else:  # it comes late: the log has what came after it, perhaps its end
        deps.chunks.fold_all(await deps.bus.events(message.run_id))
    deps.wake.set()
    return []


def _is_another_chunk(newest: Message, late: ChunkStarted) -> TypeGuard[ChunkStarted]:
    """Whether the newest start is the first of another chunk: then the late one is over."""
    return isinstance(newest, ChunkStarted) and newest.launch == 1 and key(newest) != key(late)


async def chunk_done(message: ChunkDone, deps: Deps) -> list[Message]:
    """Close the chunk's window: its evidence, less what is out already."""
    if deps.chunks.closed(key(message)):
        return []
    if deps.chunks.get(key(message)) is None:  # this process did not see it begin
        deps.chunks.fold_all(await deps.bus.events(message.run_id))
    if deps.chunks.closed(key(message)):
        return []
    chunk = deps.chunks.get(key(message))
    if chunk is not None and chunk.ended is None and message.device == "cuda":
        await read_gpus(deps, chunk)
    deps.chunks.fold(message, deps.clock())
    found = await _measure(message, chunk, deps)
    return [event for event in found if chunk is None or event.name not in chunk.published]


async def _measure(done: ChunkDone, chunk: Chunk | None, deps: Deps) -> list[Message]:
    bundle, policy = await deps.runs.bundle(done.run_id), await deps.policy(done.run_id)
    ended = chunk.ended if chunk is not None and chunk.ended is not None else deps.clock()

    def work() -> list[Message]:
        gpus = gpu_evidence(done, chunk, bundle, policy, ended=ended, problem=deps.gpus.problem)
        return [gpus, artifact_evidence(done, chunk, bundle)]

    return await asyncio.to_thread(work)


async def note(message: Event, deps: Deps) -> list[Message]:
    """Fold what closes a chunk, or was said about it."""
    deps.chunks.fold(message, deps.clock())
    return []


HANDLERS: Mapping[type[Message], Handler[Any, Deps]] = {
    ChunkStarted: chunk_started,
    ChunkDone: chunk_done,
    GpuEvidence: note,
    ArtifactEvidence: note,
    AlertRaised: note,
    RunFinished: note,
}
