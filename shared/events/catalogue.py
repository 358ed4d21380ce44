"""Every message there is, who writes it, and its subject and schema on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from shared.events import chunk, end, evidence, gate, inference, operators, start, telemetry, trouble
from shared.events.base import VERSION, Command, Event, Message, Service, Telemetry
from shared.events.chunk import JoinChunk

_PIPELINE = (operators, start, chunk, evidence, trouble, gate, inference, end, telemetry)


def _messages(base: type[Message], module: ModuleType) -> Iterator[type[Message]]:
    for each in vars(module).values():
        if isinstance(each, type) and issubclass(each, base) and "name" in vars(each):
            yield each


MESSAGES: dict[tuple[str, str], type[Message]] = {
    (m.kind, f"{m.service}.{m.name}" if issubclass(m, Command) else m.name): m
    for base in (Event, Command, Telemetry)
    for module in _PIPELINE
    for m in _messages(base, module)
}
"""(kind, name) -> class, events first, each kind in pipeline order; a command's name is prefixed with its
service.
"""

WRITERS: dict[str, Service] = {
    "trainer_started": "trainer",
    "chunk_started": "trainer",
    "chunk_done": "trainer",
    "node_joined": "trainer",
    "node_lost": "trainer",
    "launcher_killed": "trainer",
    "gpu_evidence": "monitor",
    "artifact_evidence": "monitor",
    "alert_raised": "monitor",
    "inference_done": "inference",
    "report_written": "reporter",
}
"""The one service that writes each event; those not listed are the gatekeeper's."""


def subject(message: Message) -> str:
    """The NATS subject a message is published on."""
    if isinstance(message, Command):
        host = f".{message.node_rank}" if isinstance(message, JoinChunk) else ""
        return f"worldloop.{message.run_id}.command.{message.service}.{message.name}{host}"
    return f"worldloop.{message.run_id}.{message.kind}.{message.name}"


def schema_urn(message: type[Message]) -> str:
    """Which schema a message follows, and its version: `dataschema` of CloudEvents."""
    return f"urn:worldloop:{message.kind}:{message.name}:{VERSION}"


def message_class(on_subject: str) -> type[Message] | None:
    """The class of the messages on a subject, none if there is no such subject."""
    parts = on_subject.split(".")
    if len(parts) < 4 or parts[0] != "worldloop":
        return None
    name = parts[3:-1] if parts[2] == "command" and parts[-1].isdecimal() else parts[3:]  # less the host
    return MESSAGES.get((parts[2], ".".join(name)))


def as_document(message: Message) -> dict[str, Any]:
    """A message as plain JSON types."""
    return message.model_dump(mode="json")
