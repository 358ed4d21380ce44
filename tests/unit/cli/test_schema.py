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
from shared.bus.jetstream import _durable
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


def test_every_message_has_a_channel_with_its_subject_and_stream(asyncapi: dict[str, Any]) -> None:
    assert len(asyncapi["channels"]) == len(MESSAGES) + 1
    for message in MESSAGES.values():
        channel = asyncapi["channels"][models.key_of(message)]
        owner = f"{message.service}." if issubclass(message, Command) else ""
        assert channel["address"] == f"worldloop.{{run_id}}.{message.kind}.{owner}{message.name}"
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"])
        kept = next(each for each in streams.STREAMS if each.name == channel["x-jetstream-stream"])
        assert any(covers(pattern, address(message)) for pattern in kept.subjects or ())
    assert asyncapi["channels"][DEAD]["address"] == "worldloop.{run_id}.dead.{service}.{name}"


def covers(pattern: str, subject: str) -> bool:
    return bool(re.fullmatch(pattern.replace(".", r"\.").replace("*", r"[^.]+").replace(">", ".+"), subject))


def test_every_message_is_sent_and_read_by_someone(asyncapi: dict[str, Any]) -> None:
    for message in MESSAGES.values():
        assert senders(message)
        assert receivers(message)
        if issubclass(message, Command):
            assert receivers(message) == (message.service,)
        for party in senders(message):
            operation = asyncapi["operations"][f"{party}.send.{models.key_of(message)}"]
            assert operation["action"] == "send"
            assert operation["channel"]["$ref"] == f"#/channels/{models.key_of(message)}"


def test_the_consumers_are_those_the_bus_makes(asyncapi: dict[str, Any]) -> None:
    assert len(asyncapi["x-jetstream-consumers"]) == 7
    for consumer in consumers():
        said, made = asyncapi["x-jetstream-consumers"][consumer.durable], _durable(consumer)
        assert said["filter_subjects"] == made.filter_subjects
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
