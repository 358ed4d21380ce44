"""`watch` and `status`: from the server, from a bundle alone, as lines, as JSON, again and again."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import Result

from services.commands.watching import commands as watched
from services.commands.watching import news
from services.commands.watching.follow import Screen
from services.commands.watching.journal import Journal
from services.commands.watching.news import Waiting, from_bus
from services.commands.watching.periodic import Periodic
from services.commands.watching.sight import Sight
from services.reporter.core.page.fold import PageFold, fold_all
from services.reporter.core.page.model import Page
from shared.bus.journal import to_line
from shared.bus.memory import Broker, MemoryBus
from shared.bus.protocol import Recorded
from shared.errors import BundleError, BusError
from shared.events import CommandRejected, Event, Heartbeat
from tests.messages import progress

RUN = "20260102_030405"
Invoke = Callable[..., Result]
GOLDEN = Path(__file__).parents[2] / "fixtures/golden/tinyworlds_run"


async def publish(broker: Broker, events: list[Event]) -> list[Recorded]:
    bus = MemoryBus("gatekeeper", broker=broker)
    for event in events:
        await bus.publish(event)
    return await bus.events(RUN)


def bundle_of(root: Path, story: list[Event]) -> Path:
    """A bundle that tells a run, as far as it goes, and has a history."""
    records = asyncio.run(publish(Broker(), story))
    logs = root / "Logs"
    (logs / "history" / "video_tokenizer").mkdir(parents=True)
    (logs / "events.jsonl").write_text("".join(f"{to_line(record)}\n" for record in records))
    rows = "".join(f"{step},{1 / (step + 1)}\n" for step in range(300))
    (logs / "history" / "video_tokenizer" / "attempt_0001.csv").write_text("_step,train/loss\n" + rows)
    return root


@pytest.mark.parametrize("command", ["watch", "status"])
def test_a_run_that_is_over_is_shown_once_from_its_bundle_wherever_that_is(
    command: str, place: Path, story: list[Event], worldloop: Invoke
) -> None:
    bundle = bundle_of(place / "moved" / RUN, story)
    result = worldloop(command, str(bundle))
    assert result.exit_code == 1
    assert result.stdout.startswith(f"failed  {RUN}  pong  demo\nEnded: failed (out of budget)\n")
    for part in ("✗ final 0.5 (limit 0.02)", "loss  video_tokenizer", f"bundle   {bundle}"):
        assert part in result.stdout


@pytest.mark.parametrize("words", [["status"], ["watch"], ["watch", "--once"]])
def test_as_json_it_is_the_page(words: list[str], place: Path, story: list[Event], worldloop: Invoke) -> None:
    bundle_of(place / "runs" / RUN, story)
    page = Page.model_validate_json(worldloop(*words, "--json").stdout)
    assert (page.run.status, page.live, [gate.id for gate in page.gates]) == (
        "failed", False, ["video_tokenizer/1"],
    )  # fmt: skip


def test_status_of_a_run_on_the_server_says_what_waits(
    server: Broker, story: list[Event], worldloop: Invoke
) -> None:
    asyncio.run(publish(server, story[:3]))
    server.queues["trainer", "trainer-commands"] = []
    result = worldloop("status")
    assert result.exit_code == 0
    assert "services" in result.stdout
    page = Page.model_validate_json(worldloop("status", "--json").stdout)
    assert page.live
    assert {row.service: row.waiting for row in page.services}["trainer"] == 0


def test_nothing_to_watch_is_an_error_that_says_why(worldloop: Invoke, place: Path) -> None:
    assert "start one with `worldloop train`" in str(worldloop("watch").exception)
    (place / RUN).mkdir()
    assert isinstance(worldloop("watch", str(place / RUN)).exception, BundleError)


def test_without_the_reporters_packages_there_are_no_curves(
    place: Path, story: list[Event], worldloop: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle_of(place / "runs" / RUN, story)
    monkeypatch.setitem(sys.modules, "services.reporter.page.histories", None)
    result = worldloop("status")
    assert result.exit_code == 1
    assert "loss  video_tokenizer" not in result.stdout
    assert "gate  video_tokenizer" in result.stdout


async def test_without_a_server_the_bundles_event_file_is_followed_to_the_end(
    place: Path, story: list[Event], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(news, "FILE_SEC", 0.01)
    bundle = await asyncio.to_thread(bundle_of, place / "runs" / RUN, story[:3])
    lines = [to_line(record) for record in await publish(Broker(), story)]
    watching = asyncio.create_task(
        watched.watch(None, nats_url=None, root=place / "runs", every=None, as_json=False)
    )
    await asyncio.sleep(0)
    with (bundle / "Logs" / "events.jsonl").open("a") as file:
        for line in lines[3:]:
            file.write(f"{line}\n")
            file.flush()
    assert await asyncio.wait_for(watching, 60) == 1
    shown = capsys.readouterr().out
    assert shown.index("gate video_tokenizer at 300: retune") < shown.index("finished: failed")
    assert shown.index("finished: failed") < shown.index("Ended: failed")


async def test_every_so_often_the_page_is_printed_as_a_line_and_kept_in_the_bundle(
    place: Path, story: list[Event], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(news, "FILE_SEC", 0.01)
    refused = CommandRejected(run_id=RUN, request="stop_run", request_id="x", reason="not now")
    bundle = await asyncio.to_thread(bundle_of, place / "runs" / RUN, [*story[:3], refused])
    lines = [to_line(record) for record in await publish(Broker(), [*story[:3], refused, *story[3:]])]
    watching = asyncio.create_task(
        watched.watch(RUN, nats_url=None, root=place / "runs", every=0.01, as_json=True)
    )
    log: list[Path] = []
    while not log or log[0].read_text().count(f"running  {RUN}") < 3:
        await asyncio.sleep(0.01)
        log = list((bundle / "Logs").glob("monitor_2*.log"))
    with (bundle / "Logs" / "events.jsonl").open("a") as file:
        file.writelines(f"{line}\n" for line in lines[4:])
    assert await asyncio.wait_for(watching, 60) == 1
    looks = [json.loads(line)["run"]["status"] for line in capsys.readouterr().out.splitlines()]
    assert len(looks) >= 4
    assert (set(looks[:-1]), looks[-1]) == ({"running"}, "failed")
    assert "Ended: failed" in (bundle / "Logs" / "monitor_latest.info").read_text()
    assert log[0].read_text().count("NEW ALERT stop run was refused: not now") == 1


def test_a_run_that_is_over_is_looked_at_once_more_and_no_more(
    story: list[Event], capsys: pytest.CaptureFixture[str]
) -> None:
    fold = fold_all(RUN, asyncio.run(publish(Broker(), story)))
    sight = Sight(fold, None, live=False)
    periodic = Periodic(Console(), sight, None, None, every=1.0, as_json=True)
    periodic.show(None)
    assert capsys.readouterr().out == ""
    periodic.look()
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_an_alert_of_the_files_is_told_when_it_begins_to_stand_and_not_while_it_does(
    place: Path, story: list[Event], capsys: pytest.CaptureFixture[str]
) -> None:
    fold = fold_all(RUN, asyncio.run(publish(Broker(), story[:3])))
    silent = {"dynamics/history": "history is silent"}
    looks = iter([{}, silent, silent, {}, silent])
    (place / "Logs").mkdir()
    journal = Journal(place / "Logs")
    sight = Sight(fold, None, live=False)
    periodic = Periodic(
        Console(), sight, lambda: (["  history  1 h ago"], next(looks)), journal, every=1.0, as_json=False
    )
    for told in (0, 1, 1, 1, 2):
        periodic.look()
        assert journal.log.read_text().count("NEW ALERT history is silent") == told
    assert "  history  1 h ago\n" in journal.latest.read_text()
    assert capsys.readouterr().out.count("  history  1 h ago\n") == 5


def test_the_three_channels_of_a_bundle_are_looked_at(place: Path) -> None:
    look = watched.channels(GOLDEN)
    assert look is not None
    found, _ = look()
    words = [line.split()[0] for line in found]
    assert [words.count(name) for name in ("history", "checkpoint", "visualization")] == [3, 3, 3]
    empty = watched.channels(place)
    assert empty is not None
    assert empty()[1] == {}


# --- what comes in ----------------------------------------------------------------------------------------


async def test_events_of_the_run_everybodys_heartbeats_and_backlogs_come_in(story: list[Event]) -> None:
    broker = Broker()
    bus = MemoryBus(broker=broker)
    await publish(broker, story[:2])
    fold = PageFold(RUN)
    incoming = from_bus(bus, RUN, after=0)
    beat = Heartbeat(run_id="idle", service="monitor", pid=1, host="h", working_on=[])
    seen: set[str] = set()
    while seen != {"run_started", "stage_started", "Waiting", "heartbeat"}:
        item = await asyncio.wait_for(anext(incoming), 60)
        if isinstance(item, Waiting):
            fold.backlog(item.found)
            seen.add("Waiting")
            await bus.publish(beat)
        else:
            fold.take(item)
            seen.add(item.message.name)
    await incoming.aclose()
    (monitor,) = [row for row in fold.page(0).services if row.service == "monitor"]
    assert (monitor.heard is None, monitor.waiting) == (False, 0)
    assert broker.listeners == []


async def test_a_bus_that_is_closed_for_good_ends_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    async def closed(*_: object, **__: object) -> AsyncIterator[Recorded]:
        raise BusError("the connection is closed")
        yield

    bus = MemoryBus()
    monkeypatch.setattr(bus, "follow", closed)
    with pytest.raises(BusError, match="closed"):
        async for _ in from_bus(bus, RUN, after=0):
            pass


# --- on no terminal ---------------------------------------------------------------------------------------


def test_lines_of_other_runs_progress_are_not_shown_and_strings_are_harmless(story: list[Event]) -> None:
    file = io.StringIO()
    fold = fold_all(RUN, [])
    screen = Screen(Console(file=file, width=200), Sight(fold, None, live=True))
    told = asyncio.run(publish(Broker(), story))

    def moved(run_id: str, loss: float) -> Recorded:
        return Recorded(0, told[0].time, "trainer", progress(run_id, loss=loss))

    refused = CommandRejected(run_id=RUN, request="stop_run", request_id="x", reason="\x1b[2J[red]no")
    with screen:
        screen.show(moved(f"{RUN}_2", 0.5))
        screen.show(moved(RUN, 0.25))
        screen.show(Recorded(9, told[0].time, "gatekeeper", refused))
    assert "loss 0.50000" not in file.getvalue()
    assert "loss 0.25000" in file.getvalue()
    assert "refused stop_run: ?[2J[red]no" in file.getvalue()


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_without_cursor_positions_gets_lines(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", term)
    file = io.StringIO()
    with Screen(Console(file=file, force_terminal=True), Sight(PageFold(RUN), None, live=True)) as screen:
        screen.show(None)
        assert screen.every is None
    assert file.getvalue() == ""
