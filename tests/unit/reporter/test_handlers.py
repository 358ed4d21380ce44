"""The reporter over the in-memory bus."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from typing import Any

import pytest

from services.reporter import handlers
from services.reporter.core.findings import HOW_IT_ENDED
from services.reporter.exports import gate_export
from services.reporter.handlers import HANDLERS, Deps, event, write_reports
from shared.bundle import Bundle
from shared.bus.journal import read_journal
from shared.bus.memory import MemoryBus
from shared.events import (
    CommandRejected,
    Event,
    GateDecided,
    Message,
    OperatorRequested,
    ReportWritten,
    RunFinished,
    Status,
    WriteReports,
)
from shared.service import App, Runs, serve
from shared.settings import Settings

RUN = "20260101_000000"
Log = Any


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus("gatekeeper")


@pytest.fixture
def deps(bus: MemoryBus) -> Deps:
    return Deps(bus, Runs(bus, Settings()))


async def publish(log: Log, bus: MemoryBus) -> list[Event]:
    for record in log.records:
        await bus.publish(record.message)
    return [record.message for record in log.records]


def command(*kinds: str, **changes: Any) -> WriteReports:
    given = {"outcome": "passed", "reason": "the inference gate passed", "degraded": False} | changes
    return WriteReports(run_id=RUN, kinds=list(kinds), **given)


def written(messages: list[Message]) -> dict[str, ReportWritten]:
    assert all(isinstance(message, ReportWritten) for message in messages)
    return {message.report: message for message in messages if isinstance(message, ReportWritten)}


async def test_every_event_is_in_the_file_once_and_in_order(
    log: Log, bus: MemoryBus, deps: Deps, bundle: Bundle
) -> None:
    log.begin().chunk(1, 0, 5).inference()
    events = await publish(log, bus)
    for message in (*events, *events):
        assert await event(message, deps) == []
    assert [record.message for record in read_journal(bundle.events)] == events


async def test_whoever_sees_the_end_in_the_file_has_the_page(
    log: Log, bus: MemoryBus, deps: Deps, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.begin().chunk(1, 0, 5).add(RunFinished(run_id=RUN, status="stopped", degraded=False, reason="asked"))
    events = await publish(log, bus)
    pages: list[bool] = []
    kept = handlers.append_events

    def append(*given: Any) -> None:
        pages.append(any(bundle.reports.glob("run-page-*.html")))
        kept(*given)

    monkeypatch.setattr(handlers, "append_events", append)
    assert await event(events[0], deps) == []  # brings all the others along
    assert pages == [True]


async def test_a_reporter_that_is_started_again_goes_on_where_the_file_ends(
    log: Log, bus: MemoryBus, deps: Deps, bundle: Bundle
) -> None:
    events = await publish(log.begin().chunk(1, 0, 5), bus)
    await event(events[0], deps)
    whole = bundle.events.read_bytes()
    bundle.events.write_bytes(whole[:-30])
    again = Deps(bus, Runs(bus, Settings()))
    await event(events[-1], again)
    assert [record.message for record in read_journal(bundle.events)] == events


async def test_what_came_before_the_run_began_is_brought_along(
    log: Log, bus: MemoryBus, deps: Deps, bundle: Bundle
) -> None:
    asked = OperatorRequested(run_id=RUN, request="start_run", request_id="1")
    await bus.publish(asked)
    assert await event(asked, deps) == []
    assert not bundle.root.exists()
    (begun,) = await publish(log.begin(), bus)
    await event(begun, deps)
    assert [record.message for record in read_journal(bundle.events)] == [asked, begun]
    assert (bundle.config / "run.yaml").exists()


async def test_a_command_refused_for_an_unknown_run_is_nobodys_report(bus: MemoryBus, deps: Deps) -> None:
    refused = CommandRejected(run_id=RUN, request="pause_run", request_id="1", reason="no such run")
    await bus.publish(refused)
    assert await event(refused, deps) == []


async def test_a_bundle_that_was_moved_away_is_not_brought_back(
    log: Log, bus: MemoryBus, deps: Deps, bundle: Bundle
) -> None:
    events = await publish(log.begin().chunk(1, 0, 5), bus)
    await event(events[0], deps)
    shutil.rmtree(bundle.root)
    late = RunFinished(run_id=RUN, status="stopped", degraded=False, reason="x")
    await bus.publish(late)
    await event(late, deps)
    assert not bundle.root.exists()


async def test_a_gate_exports_the_history(log: Log, bus: MemoryBus, deps: Deps, bundle: Bundle) -> None:
    for message in await publish(log.begin().chunk(1, 0, 5), bus):
        await event(message, deps)
    assert len((bundle.logs / f"dynamics_history_{RUN}_gate.csv").read_text().splitlines()) == 6
    assert (bundle.logs / f"dynamics_history_{RUN}_gate.json").exists()


async def test_a_history_that_is_gone_costs_the_export_only(
    log: Log, bus: MemoryBus, deps: Deps, bundle: Bundle
) -> None:
    log.begin().chunk(1, 0, 5, rows=False)
    for message in await publish(log, bus):
        await event(message, deps)
    assert len(read_journal(bundle.events)) == len(log.records)
    assert not list(bundle.logs.glob("*_gate.csv"))


async def test_reports_are_written_and_answered_one_by_one(
    log: Log, bus: MemoryBus, deps: Deps, bundle: Bundle
) -> None:
    await publish(log.begin().chunk(1, 0, 100).inference(), bus)
    found = written(await write_reports(command("inference", "loop"), deps))
    assert set(found) == {"loop", "inference"}
    for answer in found.values():
        assert answer.ok
        assert answer.path is not None
        assert bundle.resolve(answer.path).read_text().startswith("# ")
    inference = bundle.resolve(str(found["inference"].path)).read_text()
    assert str(found["loop"].path) in inference, "the inference report links the loop report"


async def test_an_unknown_kind_is_answered_with_the_error(log: Log, bus: MemoryBus, deps: Deps) -> None:
    await publish(log.begin(), bus)
    found = written(await write_reports(command("loop", "horoscope"), deps))
    assert found["loop"].ok
    assert not found["horoscope"].ok
    assert "horoscope" in str(found["horoscope"].error)


async def test_a_disk_that_refuses_is_answered_with_the_error(
    log: Log, bus: MemoryBus, deps: Deps, bundle: Bundle
) -> None:
    await publish(log.begin(), bus)
    bundle.reports.parent.mkdir(parents=True)
    bundle.reports.write_text("a file where the directory should be")
    found = written(await write_reports(command("loop"), deps))
    assert not found["loop"].ok
    assert "docs" in str(found["loop"].error)


@pytest.mark.parametrize("outcome", ["failed", "stopped", "stage_completed"])
async def test_runs_that_did_not_pass_get_the_same_reports(
    log: Log, bus: MemoryBus, deps: Deps, bundle: Bundle, outcome: Status
) -> None:
    await publish(log.begin().chunk(1, 0, 50), bus)
    found = written(await write_reports(command("loop", "inference", outcome=outcome), deps))
    assert all(answer.ok for answer in found.values())
    assert f"The run {HOW_IT_ENDED[outcome]}: " in bundle.resolve(str(found["loop"].path)).read_text()


async def test_a_command_that_comes_again_rewrites_and_answers_only_what_is_missing(
    log: Log, bus: MemoryBus, deps: Deps
) -> None:
    await publish(log.begin().chunk(1, 0, 100), bus)
    answers = await write_reports(command("loop", "inference"), deps)
    await bus.publish(answers[0])
    again = await write_reports(command("loop", "inference", retry=1), deps)
    assert again == answers[1:], "the same path, whatever came since"


async def test_an_ending_after_another_answers_anew(log: Log, bus: MemoryBus, deps: Deps) -> None:
    await publish(log.begin().chunk(1, 0, 100), bus)
    for message in await write_reports(command("loop"), deps):
        await bus.publish(message)
    found = written(await write_reports(command("loop", ordinal=2, outcome="failed"), deps))
    assert found["loop"].ordinal == 2


async def test_served_over_the_bus_the_file_follows_the_run(
    log: Log, bus: MemoryBus, deps: Deps, bundle: Bundle
) -> None:
    await publish(log.begin().chunk(1, 0, 100).inference(), bus)
    serving = asyncio.create_task(
        serve(App(service="reporter", deps=deps, handlers=HANDLERS), bus, Settings())
    )
    await bus.publish(command("loop", "inference"))
    found: set[str] = set()
    async for record in bus.follow():
        if isinstance(record.message, ReportWritten):
            found.add(record.message.report)
        if found == {"loop", "inference"}:
            break
    async with asyncio.timeout(60):
        while len(read_journal(bundle.events)) < len(await bus.events(RUN)):  # noqa: ASYNC110 - it is a file
            await asyncio.sleep(0.01)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    assert [r.sequence for r in read_journal(bundle.events)] == [r.sequence for r in await bus.events(RUN)]
    assert await bus.dead_letters() == []


async def test_only_the_newest_gate_of_those_that_wait_exports_the_history(
    log: Log, bus: MemoryBus, deps: Deps, bundle: Bundle
) -> None:
    gates = [
        each
        for each in await publish(log.begin().chunk(1, 0, 5).chunk(2, 5, 10), bus)
        if isinstance(each, GateDecided)
    ]
    export = gate_export(bundle, RUN, "dynamics")
    await event(gates[0], deps)
    assert not export.exists()
    await event(gates[1], deps)
    assert export.exists()


async def test_reports_of_a_bundle_that_was_moved_are_refused_and_nothing_is_made_in_its_place(
    log: Log, bus: MemoryBus, deps: Deps, bundle: Bundle
) -> None:
    await publish(log.begin().chunk(1, 0, 5), bus)
    shutil.rmtree(bundle.root)
    answers = written(await write_reports(command("loop", "git", outcome="failed", reason="x"), deps))
    assert {kind: answer.ok for kind, answer in answers.items()} == {"loop": False, "git": False}
    assert f"is not at {bundle.root}" in (answers["loop"].error or "")
    assert not bundle.root.exists()
