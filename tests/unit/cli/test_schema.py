"""The published schemas are those of the code, hold together, and say what the services do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from services.commands.message_schemas import OUTPUTS
from services.schemas import models
from services.schemas.asyncapi import DEAD, address, document
from services.schemas.published import published
from services.schemas.traffic import HANDLED, consumers, receivers, senders
from shared.bus import streams
from shared.bus.deliveries import durable
from shared.bus.wire import encode
from shared.errors import UsageError
from shared.events import MESSAGES, SERVICES, Command, StopChunk
from shared.service import App, _Runtime

Invoke = Callable[..., Result]

DIRECTORY = Path(__file__).parents[3] / "docs" / "schemas"
RUN = "20260101_000000"


@pytest.fixture(scope="module")
def asyncapi() -> dict[str, Any]:
    return document("1.2.3")


def test_what_is_published_is_what_the_code_says() -> None:
    expected = published(OUTPUTS, version("worldloop"))
    found = {str(path.relative_to(DIRECTORY)): path for path in DIRECTORY.rglob("*") if path.is_file()}
    assert sorted(found) == sorted(expected)
    old = [name for name, path in found.items() if path.read_text(encoding="utf-8") != expected[name]]
    assert old == [], "run `worldloop schema --into docs/schemas`"


@pytest.mark.parametrize("service", SERVICES)
def test_the_table_of_who_takes_what_is_that_of_the_services(service: Any) -> None:
    handlers = import_module(f"services.{service}.handlers").HANDLERS
    assert set(HANDLED[service]) == set(handlers)
    app: App[None] = App(service, None, handlers)
    made = _Runtime(app, None, None).consumers()  # type: ignore[arg-type]
    assert made == [each for each in consumers() if each.service == service]


def refs(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from refs(each)


def test_every_reference_of_the_asyncapi_document_leads_somewhere(asyncapi: dict[str, Any]) -> None:
    found = set(refs(asyncapi))
    assert len(found) > 100
    for ref in found:
        target: Any = asyncapi
        for part in ref.removeprefix("#/").split("/"):
            target = target[part]


ASYNCAPI = {
    "document": {
        "asyncapi",
        "id",
        "info",
        "servers",
        "defaultContentType",
        "channels",
        "operations",
        "components",
    },
    "channels": {
        *("address", "messages", "title", "summary", "description", "servers", "parameters", "tags"),
        *("externalDocs", "bindings"),
    },
    "operations": {
        *("action", "channel", "title", "summary", "description", "security", "tags", "externalDocs"),
        *("bindings", "traits", "messages", "reply"),
    },
    "messages": {
        *("headers", "payload", "correlationId", "contentType", "name", "title", "summary", "description"),
        *("tags", "externalDocs", "bindings", "examples", "traits"),
    },
    "parameters": {"enum", "default", "description", "examples", "location"},
    "servers": {
        *("host", "protocol", "protocolVersion", "pathname", "description", "title", "summary", "variables"),
        *("security", "tags", "externalDocs", "bindings"),
    },
    "components": {
        *("schemas", "servers", "channels", "operations", "messages", "securitySchemes", "serverVariables"),
        *("parameters", "correlationIds", "replies", "replyAddresses", "externalDocs", "tags"),
        *("operationTraits", "messageTraits", "serverBindings", "channelBindings", "operationBindings"),
        "messageBindings",
    },
}
"""Fixed fields of AsyncAPI 3.0.0, by object; what begins with `x-` may be anywhere."""


def test_the_document_has_the_fields_of_asyncapi_3_and_no_others(asyncapi: dict[str, Any]) -> None:
    components = asyncapi["components"]
    objects = [("document", asyncapi), ("components", components)]
    for kind in ("channels", "operations", "servers"):
        objects += [(kind, each) for each in asyncapi[kind].values()]
    for kind in ("messages", "parameters"):
        objects += [(kind, each) for each in components[kind].values()]
    for kind, found in objects:
        assert {key for key in found if not key.startswith("x-")} <= ASYNCAPI[kind], kind
    for kind in components:
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+", key) for key in components[kind])
    for operation in asyncapi["operations"].values():
        assert operation["action"] in ("send", "receive")
        channel = operation["channel"]["$ref"]
        assert all(each["$ref"].startswith(f"{channel}/messages/") for each in operation["messages"])


def test_every_message_is_in_one_channel_whose_address_and_stream_are_its_own(
    asyncapi: dict[str, Any],
) -> None:
    for message in MESSAGES.values():
        key = models.key_of(message)
        (channel,) = (each for each in asyncapi["channels"].values() if key in each["messages"])
        subject = asyncapi["components"]["messages"][key]["x-subject"]
        assert subject == address(message) == channel["address"].replace("{name}", message.name)
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"])
        kept = next(each for each in streams.STREAMS if each.name == channel["x-jetstream-stream"])
        assert any(covers(pattern, address(message)) for pattern in kept.subjects or ())
    assert asyncapi["channels"][DEAD]["address"] == "worldloop.{run_id}.dead.{service}.{name}"


def test_an_address_is_the_subject_that_a_message_travels_on(asyncapi: dict[str, Any]) -> None:
    stop = StopChunk(run_id=RUN, stage="dynamics", attempt=1)
    envelope = encode(stop, source="/worldloop/gatekeeper", time=datetime.now(UTC))
    assert envelope.subject == address(StopChunk).format(run_id=RUN)


def covers(pattern: str, subject: str) -> bool:
    return bool(re.fullmatch(pattern.replace(".", r"\.").replace("*", r"[^.]+").replace(">", ".+"), subject))


def test_every_message_is_sent_and_read_by_someone(asyncapi: dict[str, Any]) -> None:
    for message in MESSAGES.values():
        assert senders(message)
        assert receivers(message)
        if issubclass(message, Command):
            assert receivers(message) == (message.service,)
        for action, parties in (("send", senders(message)), ("receive", receivers(message))):
            key = f"/messages/{models.key_of(message)}"
            said = {
                each["x-party"]
                for each in asyncapi["operations"].values()
                if each["action"] == action and any(ref["$ref"].endswith(key) for ref in each["messages"])
            }
            assert said == set(parties)


def test_the_consumers_are_those_the_bus_makes(asyncapi: dict[str, Any]) -> None:
    assert len(asyncapi["x-jetstream-consumers"]) == 7
    for consumer in consumers():
        said, made = asyncapi["x-jetstream-consumers"][consumer.durable], durable(consumer)
        assert said["filter_subjects"] == (made.filter_subjects or [made.filter_subject])
        assert (said["ack_wait_sec"], said["max_deliver"]) == (made.ack_wait, made.max_deliver)
    assert set(asyncapi["x-jetstream-streams"]) == {each.name for each in streams.STREAMS}


def test_the_headers_are_those_that_travel(asyncapi: dict[str, Any]) -> None:
    headers = asyncapi["components"]["messageTraits"]["cloudevent"]["headers"]
    stop = StopChunk(run_id=RUN, stage="dynamics", attempt=1)
    envelope = encode(stop, source="/worldloop/gatekeeper", time=datetime.now(UTC))
    assert set(headers["required"]) == set(envelope.headers)
    said = asyncapi["components"]["messages"]["command.trainer.stop"]["x-dataschema"]
    assert envelope.headers["ce-dataschema"] == said == models.schema_of(StopChunk)["$id"]


@pytest.mark.parametrize("message", MESSAGES.values(), ids=models.key_of)
def test_a_schema_has_every_field_with_what_its_docstring_says(message: Any) -> None:
    schema = models.schema_of(message)
    assert set(schema["properties"]) == set(message.model_fields)
    assert schema["additionalProperties"] is False
    for field, text in models.field_texts(message).items():
        if field in message.model_fields:
            assert schema["properties"][field]["description"] == text


def test_a_field_of_a_base_class_keeps_its_text() -> None:
    properties = models.schema_of(MESSAGES["command", "trainer.start"])["properties"]
    assert properties["retry"]["description"].startswith("Times the command was sent again")


def test_the_command_prints_overview_entry_and_json(worldloop: Invoke) -> None:
    assert "event.chunk_done" in worldloop("schema").stdout
    assert "CPU seconds per rank" in worldloop("schema", "chunk_done").stdout
    assert json.loads(worldloop("schema", "--json").stdout)["asyncapi"] == "3.0.0"
    assert json.loads(worldloop("schema", "event.chunk_done", "--json").stdout)["title"] == "ChunkDone"
    wrong = worldloop("schema", "chunk").exception
    assert isinstance(wrong, UsageError)
    assert "event.chunk_started" in str(wrong)


def test_into_writes_all_files(worldloop: Invoke, place: Path) -> None:
    worldloop("schema", "--into", str(place / "out"))
    assert (place / "out" / "events.md").read_text() == (DIRECTORY / "events.md").read_text()
