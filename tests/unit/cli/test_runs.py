"""status, events and an operator's wishes, on the in-memory bus and on a bundle alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from services.commands import runs
from services.commands.watching import follow
from shared.bus.journal import from_line, journal, to_line
from shared.bus.memory import Broker, MemoryBus
from shared.bus.protocol import Consumer
from shared.errors import BundleError, UsageError
from shared.events import CommandRejected, Event, OperatorCommand, OperatorRequested, RetuneRun, StopRun

RUN = "20260102_030405"
Invoke = Callable[..., Result]


def publish(broker: Broker, events: list[Event]) -> list[str]:
    """Publish events; the lines a bundle's file would hold."""

    async def work() -> list[str]:
        bus = MemoryBus("gatekeeper", broker=broker)
        for event in events:
            await bus.publish(event)
        return [to_line(recorded) for recorded in await bus.events(RUN)]

    return asyncio.run(work())


def write_bundle(root: Path, lines: list[str]) -> Path:
    path = root / "runs" / RUN / "Logs" / "events.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return root / "runs" / RUN


def test_events_are_the_same_from_the_server_and_from_the_bundle(
    server: Broker, story: list[Event], worldloop: Invoke, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = publish(server, story)
    from_server = worldloop("events", RUN, "--json").stdout
    bundle = write_bundle(place, lines)
    server.log.clear()
    assert worldloop("events", RUN, "--json").stdout == from_server
    assert worldloop("events", str(bundle), "--json").stdout == from_server
    assert worldloop("events", "--json").stdout == from_server
    assert [json.loads(line)["type"] for line in from_server.splitlines()] == [
        f"worldloop.event.{event.name}" for event in story
    ]


def test_without_a_server_the_bundle_is_read(place: Path, story: list[Event], worldloop: Invoke) -> None:
    write_bundle(place, publish(Broker(), story))
    result = worldloop("events")
    assert result.exit_code == 0
    assert "gate video_tokenizer at 300: retune (retune) - final loss 0.5 is high" in result.stdout


def test_an_event_comes_back_from_its_line_as_it_was(story: list[Event]) -> None:
    lines = publish(Broker(), story)
    assert [to_line(from_line(line)) for line in lines] == lines
    assert [from_line(line).message for line in lines] == story


def test_a_line_that_is_still_being_written_is_no_event_yet(
    place: Path, story: list[Event], worldloop: Invoke
) -> None:
    bundle = write_bundle(place, publish(Broker(), story))
    path = bundle / "Logs" / "events.jsonl"
    path.write_text(path.read_text()[:-20])
    assert len(worldloop("events", "--json").stdout.splitlines()) == len(story) - 1


def test_events_of_some_names_are_read_alone(place: Path, story: list[Event]) -> None:
    path = write_bundle(place, publish(Broker(), story)) / "Logs" / "events.jsonl"
    wanted = ("gate_decided", "run_started")
    found = [record.message for record in journal(path, wanted)]
    assert found == [event for event in story if event.name in wanted]
    assert len({event.name for event in story}) > len({event.name for event in found}) == len(wanted)


def test_a_broken_line_is_named(place: Path, story: list[Event], worldloop: Invoke) -> None:
    write_bundle(place, [*publish(Broker(), story), "{}"])
    result = worldloop("events")
    assert isinstance(result.exception, BundleError)
    assert f"line {len(story) + 1}" in str(result.exception)


def test_status_shows_the_run_and_its_exit_code_says_how_it_went(
    server: Broker, story: list[Event], worldloop: Invoke
) -> None:
    publish(server, story[:3])
    running = worldloop("status")
    assert running.exit_code == 0
    assert "updates 0 to 300 of 900 (attempt 1" in running.stdout
    publish(server, story)
    assert worldloop("status", RUN).exit_code == 1
    assert json.loads(worldloop("status", "--json").stdout)["run"]["status"] == "failed"


def test_a_run_that_nobody_knows_is_an_error_that_says_where_was_looked(
    server: Broker, worldloop: Invoke
) -> None:
    assert "the server does not know it" in str(worldloop("status", RUN).exception)
    assert "start one with `worldloop train`" in str(worldloop("status").exception)


def answering(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, *, refuse: str | None = None
) -> list[OperatorCommand]:
    """A gatekeeper that takes (or refuses) every operator's command as soon as it is published."""
    taken: list[OperatorCommand] = []
    publish_to_bus = MemoryBus.publish

    async def publish_and_answer(self: MemoryBus, message: object) -> None:
        await publish_to_bus(self, message)  # type: ignore[arg-type]
        if isinstance(message, OperatorCommand):
            async for delivery in self.subscribe(Consumer("gatekeeper", "command")):
                command = delivery.message()
                assert isinstance(command, OperatorCommand)
                taken.append(command)
                await delivery.ack()
                break
            answer: Event = OperatorRequested.model_validate(
                {"run_id": message.run_id, "request": message.name, "request_id": message.request_id}
            )
            if refuse is not None:
                answer = CommandRejected(
                    run_id=message.run_id, request=message.name, request_id=message.request_id, reason=refuse
                )
            await publish_to_bus(self, answer)

    monkeypatch.setattr(MemoryBus, "publish", publish_and_answer)
    return taken


def test_an_operators_wish_reaches_the_gatekeeper(
    server: Broker, story: list[Event], worldloop: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, story[:3])
    taken = answering(server, monkeypatch)
    for command in ("pause", "resume", "stop"):
        assert worldloop(command).exit_code == 0
    assert worldloop("retune", RUN, "learning_rate=1e-4", "dynamics.log_interval=50").exit_code == 0
    assert [command.name for command in taken] == ["pause_run", "resume_run", "stop_run", "retune_run"]
    retune = taken[-1]
    assert isinstance(retune, RetuneRun)
    assert (retune.changes, retune.stage) == ({"learning_rate": 1e-4, "log_interval": 50}, "dynamics")
    assert all(command.run_id == RUN for command in taken)


def test_what_leads_out_of_a_bundle_keeps_it_from_being_read_and_no_wish_from_the_gatekeeper(
    server: Broker, story: list[Event], worldloop: Invoke, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    bundle = write_bundle(place, publish(server, story[:3]))
    (bundle / "docs").symlink_to(place)
    taken = answering(server, monkeypatch)
    assert worldloop("stop", RUN).exit_code == 0
    assert [command.name for command in taken] == ["stop_run"]
    assert "leads out of the bundle" in str(worldloop("status", RUN).exception)
    assert "leads out of the bundle" in str(worldloop("status").exception)
    server.log.clear()
    assert "leads out of the bundle" in str(worldloop("events").exception)


def test_a_refused_wish_says_why(
    server: Broker, story: list[Event], worldloop: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, story)
    answering(server, monkeypatch, refuse="it has ended")
    assert "refused: it has ended" in str(worldloop("stop").exception)


def test_only_knobs_can_be_retuned() -> None:
    with pytest.raises(UsageError, match="only batch_size_per_gpu"):
        runs.knobs(["embed_dim=64"], None)
    with pytest.raises(UsageError, match="one stage at a time"):
        runs.knobs(["dynamics.learning_rate=1e-3", "latent_actions.learning_rate=1e-3"], None)
    assert runs.knobs(["learning_rate=1e-3"], "dynamics") == ("dynamics", {"learning_rate": 1e-3})


def test_a_wish_needs_a_server(worldloop: Invoke) -> None:
    result = worldloop("stop", RUN)
    assert "worldloop up" in str(result.exception)


def test_the_same_wish_sent_twice_is_two_wishes() -> None:
    assert (
        StopRun(run_id=RUN, request_id=follow.request_id()).id
        != StopRun(run_id=RUN, request_id=follow.request_id()).id
    )
