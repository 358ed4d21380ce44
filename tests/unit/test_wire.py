"""The wire form: CloudEvents headers, and errors that say what is wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from shared.bus.wire import dead, decode, encode, published, service_of
from shared.errors import MessageError
from shared.events import (
    MESSAGES,
    AlertRaised,
    Heartbeat,
    Message,
    OperatorRequested,
    RunSpec,
    RunStarted,
    StopChunk,
    subject,
)
from tests.messages import progress

RUN = "20260101_000000"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
STOP = StopChunk(run_id=RUN, stage="dynamics", attempt=3)


def named(base: type[Message]) -> set[type[Message]]:
    """The messages below a base, as far as the glossary has them."""
    ours = {each for each in base.__subclasses__() if each.__module__.startswith("shared.")}
    return {each for each in ours if "name" in vars(each)} | {deep for each in ours for deep in named(each)}


def test_the_catalogue_has_every_message_of_the_glossary() -> None:
    assert set(MESSAGES.values()) == named(Message)


def test_a_message_travels_as_a_cloudevent_in_binary_mode() -> None:
    envelope = encode(STOP, source="/worldloop/gatekeeper", time=NOON)
    assert envelope.subject == f"worldloop.{RUN}.command.trainer.stop"
    assert envelope.headers == {
        "ce-specversion": "1.0",
        "ce-id": f"{RUN}/dynamics/3/stop",
        "ce-type": "worldloop.command.stop",
        "ce-source": "/worldloop/gatekeeper",
        "ce-time": "2026-01-01T12:00:00.000000Z",
        "ce-datacontenttype": "application/json",
        "ce-dataschema": "urn:worldloop:command:stop:1",
    }
    assert decode(envelope.subject, envelope.data) == STOP


def test_times_are_utc_whatever_zone_they_came_in() -> None:
    there = NOON.astimezone(timezone(timedelta(hours=9)))
    assert (
        encode(STOP, source="/worldloop/cli", time=there).headers["ce-time"] == "2026-01-01T12:00:00.000000Z"
    )


def test_header_values_are_percent_encoded_as_cloudevents_asks() -> None:
    alert = AlertRaised(run_id=RUN, channel='gpu "0"\r\nü', silence_sec=1, limit_sec=1)
    ident = encode(alert, source="/worldloop/monitor", time=NOON).headers["ce-id"]
    assert ident == f"{RUN}/None/None/gpu%20%220%22%0D%0A%C3%BC/1/alert_raised"


def test_every_reading_of_telemetry_has_an_id_of_its_own() -> None:
    beat = Heartbeat(run_id="idle", service="trainer", pid=1, host="here", working_on=[])
    idents = {encode(beat, source="/worldloop/trainer", time=NOON).headers["ce-id"] for _ in range(3)}
    assert len(idents) == 3
    assert "" not in idents


@pytest.mark.parametrize(
    ("subject", "data", "complaint"),
    [
        ("worldloop.x.event.party", b"{}", "no message of worldloop has this subject"),
        ("elsewhere", b"{}", "no message of worldloop has this subject"),
        (f"worldloop.{RUN}.command.trainer.stop", b"{", "no valid stop: payload: Invalid JSON"),
        (f"worldloop.{RUN}.command.trainer.stop", b"[]", "no valid stop: payload: "),
        (
            f"worldloop.{RUN}.command.trainer.stop",
            b'{"run_id": "20260101_000000", "stage": "dynamics", "attempt": "soon"}',
            "attempt: Input should be a valid integer",
        ),
        (
            f"worldloop.{RUN}.command.trainer.stop",
            b'{"run_id": "20260101_000000", "stage": "dynamics", "attempt": 1, "why": "x"}',
            "why: Extra inputs are not permitted",
        ),
        (f"worldloop.{RUN}_2.command.trainer.stop", STOP.model_dump_json().encode(), f"is of run {RUN}"),
    ],
)
def test_what_is_no_message_names_subject_field_and_problem(
    subject: str, data: bytes, complaint: str
) -> None:
    with pytest.raises(MessageError) as caught:
        decode(subject, data)
    assert str(caught.value).startswith(f"{subject}: ")
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("field", "number"),
    [
        ("eta_sec", "Infinity"),
        ("loss", "NaN"),
        ("loss", "-1e999"),
        ("loss", '"nan"'),
        ("step", str(10**400)),
        ("step", f'"-{10**400}"'),
        ("frames_per_sec", str(10**400)),
    ],
)
def test_a_number_that_arithmetic_cannot_be_trusted_with_is_refused(field: str, number: str) -> None:
    reading = encode(progress(RUN), source="/worldloop/trainer", time=NOON)
    document = json.loads(reading.data)
    data = json.dumps(document | {field: "here"}).replace('"here"', number).encode()
    with pytest.raises(MessageError, match=rf"no valid train_progress: {field}: .*finite"):
        decode(reading.subject, data)


def test_a_number_is_looked_for_wherever_a_document_may_have_one() -> None:
    spec = {"profile": "demo", "policy": {"gatekeeper": {"limits": [1, {"loss": 0}]}}}
    asked = OperatorRequested(run_id=RUN, request="start_run", request_id="1", arguments={"spec": spec})
    sent = encode(asked, source="/worldloop/gatekeeper", time=NOON)
    assert decode(sent.subject, sent.data) == asked
    with pytest.raises(MessageError, match=r"arguments\.spec\.policy\.gatekeeper\.limits\.1\.loss: "):
        decode(sent.subject, sent.data.replace(b'"loss":0', b'"loss":1e999'))


@pytest.mark.parametrize("number", [10**300, -(2**64), 0])
def test_integers_travel_as_far_as_arithmetic_goes(number: int) -> None:
    reading = progress(RUN).model_copy(update={"step": number})
    sent = encode(reading, source="/worldloop/trainer", time=NOON)
    assert decode(sent.subject, sent.data) == reading


def test_a_message_without_readable_headers_has_the_time_it_was_stored() -> None:
    assert published(None, NOON) == (NOON, "")
    assert published({"ce-time": "noon", "ce-source": "/a%20b"}, NOON) == (NOON, "/a b")
    assert published({"ce-time": "2026-01-01T13:00:00Z"}, NOON) == (NOON + timedelta(hours=1), "")


def test_a_dead_letter_keeps_what_came_and_where() -> None:
    envelope = encode(STOP, source="/worldloop/gatekeeper", time=NOON)
    letter = dead(envelope, "trainer", "no", 5)
    assert (letter.run_id, letter.name, letter.subject) == (RUN, "trainer.stop", envelope.subject)
    assert (letter.data, letter.headers, letter.deliveries) == (envelope.data, envelope.headers, 5)


def test_only_services_have_dead_letters() -> None:
    assert service_of("trainer") == "trainer"
    assert service_of("cli") is None


def test_an_event_or_a_reading_of_another_version_is_read_without_the_fields_that_are_unknown_here() -> None:
    spec = RunSpec(
        bundle=f"/runs/{RUN}", run_name="2026_01_01_12_00_00_pong", profile="demo", configuration={},
        policy={}, origins={}, stages=["dynamics"],
    )  # fmt: skip
    beat = Heartbeat(run_id=RUN, service="trainer", pid=1, host="here", working_on=[])
    began = RunStarted(run_id=RUN, spec=spec)
    of_spec = began.model_dump(mode="json")
    of_spec["spec"]["weather"] = {"rain": [1]}
    for message, later in ((beat, beat.model_dump(mode="json") | {"mood": "good"}), (began, of_spec)):
        assert decode(subject(message), json.dumps(later).encode()) == message
    assert RunSpec.recorded(of_spec["spec"]) == spec


def test_of_a_command_every_field_has_to_be_understood() -> None:
    later = STOP.model_dump(mode="json") | {"gently": True}
    with pytest.raises(MessageError, match="gently"):
        decode(subject(STOP), json.dumps(later).encode())
