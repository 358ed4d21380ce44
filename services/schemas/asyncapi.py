"""The AsyncAPI 3.0 document of all services: channels, operations of each, streams and consumers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from nats.js.api import StreamConfig

from services.schemas import models
from services.schemas.traffic import PARTIES, consumers, receivers, senders
from shared.bus import streams
from shared.events import RUN_ID, SERVICES, Command, JoinChunk, Message, schema_urn

_STREAM = {"event": streams.EVENTS, "command": streams.COMMANDS, "telemetry": streams.TELEMETRY}
_KEPT = ("description", "subjects", "retention", "storage", "discard", "max_msgs", "max_age", "max_bytes")
"""What is said of a stream, as JetStream names it."""
DEAD = "dead"
_REF = "#/components/schemas/{model}"


def document(version: str) -> dict[str, Any]:
    """The whole document.

    Args:
        version: Of worldloop.
    """
    found = models.messages()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "worldloop",
            "version": version,
            "description": (
                "Events are facts, kept for ever in one order. Commands wait until their service has acked "
                "them. Telemetry may be lost. Any NATS client may follow; headers are CloudEvents 1.0."
            ),
            "license": {"name": "MIT"},
            "tags": [{"name": name} for name in ("event", "command", "telemetry", DEAD)],
        },
        "defaultContentType": "application/json",
        "servers": {
            "embedded": {
                "host": "127.0.0.1:{port}",
                "protocol": "nats",
                "description": (
                    "The stack's own server; `worldloop up` prints its address. It asks for an nkey: tools "
                    "that read have `keys/observer.nk` in the state directory."
                ),
                "variables": {"port": {"default": "4222", "description": "A free one, kept over restarts."}},
            }
        },
        "channels": {key: _channel(messages) for key, messages in _channels().items()}
        | {DEAD: _dead_channel()},
        "operations": {
            f"{party}.{action}.{key}": _operation(action, key, said, party)
            for key, messages in _channels().items()
            for action, parties in (("send", senders), ("receive", receivers))
            for party in PARTIES
            if (said := [each for each in messages if party in parties(each)])
        }
        | {f"{party}.send.{DEAD}": _operation("send", DEAD, [], party) for party in SERVICES},
        "components": {
            "messages": {models.key_of(each): _message(each) for each in found} | {DEAD: _dead_message()},
            "schemas": models.shared_schemas(found, _REF),
            "messageTraits": {"cloudevent": {"headers": _headers()}},
            "parameters": _parameters(),
        },
        "x-jetstream-streams": {each.name: _stream(each) for each in streams.STREAMS},
        "x-jetstream-consumers": {
            each.durable: {
                "stream": streams.COMMANDS if each.kind == "command" else streams.EVENTS,
                "filter_subjects": each.subjects,
                "ack_wait_sec": each.ack_wait_sec,
                "max_deliver": each.max_deliver,
            }
            for each in consumers()
        },
        "x-parties": list(PARTIES),
    }


def address(message: type[Message]) -> str:
    """The subject of a message, with its parameters."""
    owner = f"{message.service}." if issubclass(message, Command) else ""
    host = ".{node_rank}" if issubclass(message, JoinChunk) else ""
    return f"worldloop.{{run_id}}.{message.kind}.{owner}{message.name}{host}"


def _channels() -> dict[str, list[type[Message]]]:
    """Messages of one kind to one service, and to one of its hosts, go over one channel."""
    found: dict[str, list[type[Message]]] = {}
    for message in models.messages():
        found.setdefault(_channel_of(message), []).append(message)
    return found


def _channel_of(message: type[Message]) -> str:
    owner = [message.service] if issubclass(message, Command) else []
    host = ["node"] if issubclass(message, JoinChunk) else []
    return ".".join((message.kind, *owner, *host))


def _channel(messages: Sequence[type[Message]]) -> dict[str, Any]:
    first = messages[0]
    subject = address(first).replace(f".{first.name}", ".{name}")
    return {
        "address": subject,
        "messages": {
            models.key_of(each): {"$ref": f"#/components/messages/{models.key_of(each)}"} for each in messages
        },
        "parameters": {
            name: {"$ref": f"#/components/parameters/{name}"} for name in re.findall(r"{(\w+)}", subject)
        },
        "tags": [{"name": first.kind}],
        "x-jetstream-stream": _STREAM[first.kind],
    }


def _dead_channel() -> dict[str, Any]:
    return {
        "address": "worldloop.{run_id}.dead.{service}.{name}",
        "messages": {DEAD: {"$ref": f"#/components/messages/{DEAD}"}},
        "summary": "Messages nobody could handle, with the reason.",
        "parameters": {
            name: {"$ref": f"#/components/parameters/{name}"} for name in ("run_id", "service", "name")
        },
        "tags": [{"name": DEAD}],
        "x-jetstream-stream": streams.DEAD,
    }


def _operation(action: str, channel: str, messages: Sequence[type[Message]], party: str) -> dict[str, Any]:
    keys = [models.key_of(each) for each in messages] or [DEAD]
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{key}"} for key in keys],
        "x-party": party,
    }


def _message(message: type[Message]) -> dict[str, Any]:
    return {
        "name": f"worldloop.{message.kind}.{message.name}",
        "title": message.__name__,
        "summary": models.summary(message),
        "traits": [{"$ref": "#/components/messageTraits/cloudevent"}],
        "payload": {"$ref": _REF.format(model=message.__name__)},
        "x-subject": address(message),
        "x-dataschema": schema_urn(message),
    }


def _dead_message() -> dict[str, Any]:
    reasons = {
        "worldloop-subject": "Where it was published.",
        "worldloop-reason": "Why it could not be handled, percent-encoded.",
        "worldloop-deliveries": "How often it was delivered.",
    }
    return {
        "name": "worldloop.dead",
        "title": "DeadLetter",
        "summary": "The message as it came, its headers, and three more.",
        "headers": {
            "type": "object",
            "required": list(reasons),
            "properties": {name: {"type": "string", "description": text} for name, text in reasons.items()},
        },
        "payload": {},
    }


def _headers() -> dict[str, Any]:
    texts = {
        "ce-specversion": {"const": "1.0"},
        "ce-id": {"description": "Deterministic, percent-encoded; the same id twice is the same message."},
        "ce-type": {"description": "worldloop.<kind>.<name>"},
        "ce-source": {"description": "/worldloop/<service or cli>"},
        "ce-time": {"format": "date-time", "description": "When it was published, UTC."},
        "ce-datacontenttype": {"const": "application/json"},
        "ce-dataschema": {"description": "urn:worldloop:<kind>:<name>:<version of the schemas>"},
    }
    properties = {name: {"type": "string"} | text for name, text in texts.items()}
    return {"type": "object", "required": list(properties), "properties": properties}


def _parameters() -> dict[str, Any]:
    return {
        "run_id": {"description": f"The run, `{RUN_ID.pattern}`; `idle` in heartbeats of no run."},
        "service": {"description": "The service that could not handle it.", "enum": list(SERVICES)},
        "name": {"description": "The message's: what its own `x-subject` has there."},
        "node_rank": {"description": "The host a command is for, from 1."},
    }


def _stream(config: StreamConfig) -> dict[str, Any]:
    default = StreamConfig()
    said = {key: getattr(config, key) for key in _KEPT if getattr(config, key) != getattr(default, key)}
    said = {key: getattr(value, "value", value) for key, value in said.items()}
    if "max_age" in said:
        said["max_age_sec"] = said.pop("max_age")
    return said
