"""What the trainer does with each message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.trainer.node import Node
from services.trainer.trainer import Trainer
from shared.events import (
    ChunkCommand,
    ChunkDone,
    JoinChunk,
    Message,
    NodeEvent,
    NodeJoined,
    NodeLost,
    RunFinished,
    RunPaused,
    StopChunk,
)
from shared.service import Handler


async def take_plan(command: ChunkCommand, trainer: Trainer) -> list[Message]:
    """Start, continue, retune, restart: the plan says it all; acked once the chunk has begun."""
    await trainer.take(command.run_id, command.plan, command.id)
    return []


async def stop_chunk(command: StopChunk, trainer: Trainer) -> list[Message]:
    """End the chunk after its current update."""
    trainer.stop((command.run_id, command.stage, command.attempt))
    return []


async def note_node(event: NodeEvent, trainer: Trainer) -> list[Message]:
    """Another host joined a launch, or is lost to it."""
    await trainer.node(event)
    return []


async def rest(event: RunPaused | RunFinished, trainer: Trainer) -> list[Message]:
    """Nothing comes for a while: end the warm group."""
    await trainer.rest(event.run_id)
    return []


HANDLERS: Mapping[type[Message], Handler[Any, Trainer]] = {
    ChunkCommand: take_plan,
    StopChunk: stop_chunk,
    NodeJoined: note_node,
    NodeLost: note_node,
    RunPaused: rest,
    RunFinished: rest,
}


async def join(command: JoinChunk, node: Node) -> list[Message]:
    """Start this host's part of a launch; acked once `node_joined` is durable."""
    answer = await node.join(command)
    return [] if answer is None else [answer]


async def leave(event: ChunkDone | RunPaused | RunFinished, node: Node) -> list[Message]:
    """End this host's part, if node 0 has ended its own."""
    if not isinstance(event, ChunkDone) or not event.group_lives_on:
        await node.leave(event.run_id)
    return []


ON_NODES: Mapping[type[Message], Handler[Any, Node]] = {
    JoinChunk: join,
    ChunkDone: leave,
    RunPaused: leave,
    RunFinished: leave,
}
"""The same on every other host than node 0."""
