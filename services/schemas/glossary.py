"""`events.md`: every message for people: who writes it, when, what its fields mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from services.schemas import models
from services.schemas.asyncapi import address
from services.schemas.traffic import receivers, senders
from shared.events import VERSION, Message

_HEAD = f"""# Messages

Made by `worldloop schema --into docs/schemas` from the models in `shared/events/`; version {VERSION}.
The same for programs: `asyncapi.json`, with a JSON Schema of each; `worldloop schema NAME --json` prints one
that is complete in itself. A new field with a default keeps the version; it rises when a field goes away or
changes its meaning. Paths are relative to the bundle.
"""
_KINDS = {
    "event": "Events: facts, kept for ever in one order",
    "command": "Commands: requests to one service, kept until it has acked them",
    "telemetry": "Telemetry: readings that may be lost",
}


def glossary() -> str:
    """The whole text."""
    found = models.messages()
    lines = [_HEAD]
    for kind, headline in _KINDS.items():
        lines += [f"## {headline}", ""]
        for message in found:
            if message.kind == kind:
                lines += _message(message)
    lines += ["## Parts", "", "What fields of several messages consist of.", ""]
    for name, schema in sorted(models.shared_schemas(found, "{model}").items()):
        if "properties" in schema and name not in {message.__name__ for message in found}:
            rows = (
                (field, models.type_of(each), each.get("description", ""))
                for field, each in schema["properties"].items()
            )
            lines += [f"### {name}", "", schema.get("description", ""), "", *_table(rows), ""]
    return "\n".join(lines).rstrip() + "\n"


def overview() -> list[tuple[str, str, str]]:
    """Each message in a line: name, who sends it, what it is."""
    return [
        (
            models.key_of(message),
            "each service" if len(senders(message)) > 2 else ", ".join(senders(message)),
            models.summary(message),
        )
        for message in models.messages()
    ]


def entry(message: type[Message]) -> str:
    """What the glossary says of one message."""
    return "\n".join(_message(message)).rstrip()


def _message(message: type[Message]) -> Iterator[str]:
    yield from (f"### {models.key_of(message).partition('.')[2]}", "", message.__doc__ or "", "")
    yield f"- subject `{address(message)}`"
    read_by = ", ".join(receivers(message)) or "nobody of ours"
    yield f"- sent by {', '.join(senders(message))}; read by {read_by}"
    yield from ("", *_table(models.fields_of(message)), "")


def _table(rows: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    yield "| field | type | meaning |"
    yield "|---|---|---|"
    for name, kind, text in rows:
        yield f"| `{name}` | {kind} | {' '.join(text.split()).replace('|', chr(92) + '|')} |"
