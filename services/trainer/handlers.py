"""What the trainer does with each message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.trainer.trainer import Trainer
from shared.events import ChunkCommand, Message, RunFinished, RunPaused, StopChunk
from shared.service import Handler


async def take_plan(command: ChunkCommand, trainer: Trainer) -> list[Message]:
    """Start, continue, retune, restart: the plan says it all; acked once the chunk has begun."""
    await trainer.take(command.run_id, command.plan, command.id)
    return []


async def stop_chunk(command: StopChunk, trainer: Trainer) -> list[Message]:
    """End the chunk after its current update."""
    trainer.stop((command.run_id, command.stage, command.attempt))
    return []


async def rest(event: RunPaused | RunFinished, trainer: Trainer) -> list[Message]:
    """Nothing comes for a while: end the warm group."""
    await trainer.rest(event.run_id)
    return []


HANDLERS: Mapping[type[Message], Handler[Any, Trainer]] = {
    ChunkCommand: take_plan,
    StopChunk: stop_chunk,
    RunPaused: rest,
    RunFinished: rest,
}
