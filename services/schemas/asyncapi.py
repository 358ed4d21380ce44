"""The AsyncAPI 3.0 document of all services: channels, operations of each, streams and consumers."""

from __future__ import annotations

from typing import Any

from nats.js.api import StreamConfig

from services.schemas import models
from services.schemas.traffic import PARTIES, consumers, receivers, senders
from shared.bus import streams
from shared.events import RUN_ID, SERVICES, Command, Message, schema_urn

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
                "description": "The stack's own server; `worldloop up` prints its address.",
                "variables": {"port": {"default": "4222", "description": "A free one, kept over restarts."}},
            }
        },
        "channels": {models.key_of(each): _channel(each) for each in found} | {DEAD: _dead_channel()},
        "operations": {
            f"{party}.{action}.{models.key_of(each)}": _operation(action, models.key_of(each), party)
            for each in found
            for action, parties in (("send", senders(each)), ("receive", receivers(each)))
            for party in parties
        }
        | {f"{party}.send.{DEAD}": _operation("send", DEAD, party) for party in SERVICES},
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
                "filter_subjects": (
                    [f"worldloop.*.command.{each.service}.>"]
                    if each.kind == "command"
                    else [f"worldloop.*.event.{name}" for name in each.names]
                ),
                "ack_wait_sec": each.ack_wait_sec,
                "max_deliver": each.max_deliver,
            }
            for each in consumers()
        },
        "x-parties": list(PARTIES),
    }


def address(message: type[Message]) -> str:
    """The subject of a message, with its parameter."""
    owner = f"{message.service}." if issubclass(message, Command) else ""
    return f"worldloop.{{run_id}}.{message.kind}.{owner}{message.name}"


def _channel(message: type[Message]) -> dict[str, Any]:
    key = models.key_of(message)
    return {
        "address": address(message),
        "messages": {key: {"$ref": f"#/components/messages/{key}"}},
        "summary": models.summary(message),
        "parameters": {"run_id": {"$ref": "#/components/parameters/run_id"}},
        "tags": [{"name": message.kind}],
        "x-jetstream-stream": _STREAM[message.kind],
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


def _operation(action: str, channel: str, party: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{channel}"}],
        "x-party": party,
    }


def _message(message: type[Message]) -> dict[str, Any]:
    return {
        "name": f"worldloop.{message.kind}.{message.name}",
        "title": message.__name__,
        "summary": models.summary(message),
        "contentType": "application/json",
        "traits": [{"$ref": "#/components/messageTraits/cloudevent"}],
        "payload": {"$ref": _REF.format(model=message.__name__)},
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
        "name": {"description": "The last part of the subject it was published on."},
    }


def _stream(config: StreamConfig) -> dict[str, Any]:
    default = StreamConfig()
    said = {key: getattr(config, key) for key in _KEPT if getattr(config, key) != getattr(default, key)}
    said = {key: getattr(value, "value", value) for key, value in said.items()}
    if "max_age" in said:
        said["max_age_sec"] = said.pop("max_age")
    return said
