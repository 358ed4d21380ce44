"""Who sends and who receives each message: the services' own tables, readable without importing a service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from shared.bus.protocol import Consumer
from shared.events import (
    MESSAGES,
    WRITERS,
    AlertRaised,
    ArtifactEvidence,
    ChunkCommand,
    ChunkDone,
    ChunkStarted,
    Command,
    EvaluateInference,
    Event,
    GpuEvidence,
    GpuSample,
    Heartbeat,
    JoinChunk,
    Message,
    NodeJoined,
    NodeLost,
    OperatorCommand,
    PauseRun,
    ResumeRun,
    RetuneRun,
    RunFinished,
    RunPaused,
    Service,
    StopChunk,
    StopRun,
    Telemetry,
    TrainerStarted,
    TrainProgress,
    WriteReports,
)
from shared.service import ACK_WAIT_SEC

Party = Literal["cli", "gatekeeper", "trainer", "monitor", "inference", "reporter"]
PARTIES: tuple[Party, ...] = ("cli", "gatekeeper", "trainer", "monitor", "inference", "reporter")

HANDLED: Mapping[Service, tuple[type[Message], ...]] = {
    "gatekeeper": (OperatorCommand,),
    "trainer": (ChunkCommand, StopChunk, NodeJoined, NodeLost, RunPaused, RunFinished),
    "monitor": (ChunkStarted, ChunkDone, GpuEvidence, ArtifactEvidence, AlertRaised, RunFinished),
    "inference": (EvaluateInference,),
    "reporter": (Event, WriteReports),
}
"""What a service's durable consumers take: the keys of its HANDLERS."""
ON_NODES: Mapping[Service, tuple[type[Message], ...]] = {
    "trainer": (JoinChunk, ChunkDone, RunPaused, RunFinished),
}
"""What those of its other hosts take, each with consumers of its own."""
FOLLOWED: Mapping[Party, tuple[type[Message], ...]] = {
    "cli": (Event, Telemetry),
    "gatekeeper": (Event, Heartbeat, TrainProgress),
    "monitor": (Heartbeat, TrainProgress),
    "reporter": (Telemetry,),
    "trainer": (TrainerStarted, Heartbeat),
}
"""What is read besides, without taking it from anyone."""
_PAGE_ASKS = (PauseRun, ResumeRun, StopRun, RetuneRun)
_READINGS: Mapping[type[Message], tuple[Party, ...]] = {
    TrainProgress: ("trainer",),
    GpuSample: ("monitor",),
    Heartbeat: ("gatekeeper", "trainer", "monitor", "inference", "reporter"),
}


def senders(message: type[Message]) -> tuple[Party, ...]:
    """Who publishes a message."""
    if issubclass(message, Telemetry):
        return _READINGS[message]
    if issubclass(message, OperatorCommand):
        return ("cli", "reporter") if message in _PAGE_ASKS else ("cli",)
    if issubclass(message, Command):
        return ("trainer",) if message is JoinChunk else ("gatekeeper",)
    return (WRITERS.get(message.name, "gatekeeper"),)


def receivers(message: type[Message]) -> tuple[Party, ...]:
    """Who reads a message."""
    tables = (*HANDLED.items(), *ON_NODES.items())
    handling = {service for service, bases in tables if issubclass(message, bases)}
    following = {party for party, bases in FOLLOWED.items() if issubclass(message, bases)}
    return tuple(party for party in PARTIES if party in handling | following)


def consumers(node_rank: int = 0) -> list[Consumer]:
    """The durable consumers of all services, but those of notifications, which each have their own.

    Args:
        node_rank: The host; others than 0 are further hosts of services that run on several.
    """
    found = []
    for service, bases in (ON_NODES if node_rank else HANDLED).items():
        taken = [cls for cls in MESSAGES.values() if issubclass(cls, bases)]
        events = tuple(sorted(cls.name for cls in taken if issubclass(cls, Event)))
        if any(issubclass(cls, Command) for cls in taken):
            found.append(Consumer(service, "command", ack_wait_sec=ACK_WAIT_SEC, node_rank=node_rank))
        if events:
            found.append(Consumer(service, "event", events, ack_wait_sec=ACK_WAIT_SEC, node_rank=node_rank))
    return found
