"""What a service could not handle is an alert: once, and again when it has doubled."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.monitor import letters
from services.monitor.core.chunks import Chunks
from services.monitor.core.dead_letters import dead_letter_alerts
from services.monitor.gpus import Nvml
from services.monitor.letters import watch_dead_letters
from services.monitor.watch import Deps
from shared.bus.memory import Broker, MemoryBus
from shared.bus.protocol import Backlog
from shared.bus.wire import dead, encode
from shared.errors import BusError
from shared.events import AlertRaised, RunPaused, RunStarted
from shared.service import Runs
from shared.settings import Settings
from tests.messages import run_spec

RUN, OTHER = "20260101_000000", "20260102_000000"


def test_alerts_come_at_the_first_one_and_when_they_doubled() -> None:
    raised = dict[tuple[str, str], int]()
    told = []
    for count in range(1, 20):
        for alert in dead_letter_alerts([Backlog("trainer", dead={RUN: count})], raised):
            raised[alert.run_id, alert.channel] = alert.ordinal
            told.append(alert.detail.partition(":")[0])
    assert told == [
        "a message became a dead letter",
        *(f"{count} messages became dead letters" for count in (2, 4, 8, 16)),
    ]


def test_each_service_and_run_is_told_of_by_itself() -> None:
    found = dead_letter_alerts(
        [Backlog("trainer", dead={RUN: 1, OTHER: 5}), Backlog("monitor", dead={RUN: 1})],
        {(RUN, "dead_letters_trainer"): 1},
    )
    assert [(each.run_id, each.channel, each.ordinal) for each in found] == [
        (OTHER, "dead_letters_trainer", 3),
        (RUN, "dead_letters_monitor", 1),
    ]


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus("monitor", broker=Broker())


async def bury(bus: MemoryBus, run_id: str) -> None:
    lost = encode(
        RunPaused(run_id=RUN, by="operator", reason="lunch"), source="/worldloop/x", time=datetime.now(UTC)
    )
    await bus.dead_letter(replace(dead(lost, "trainer", "no reason"), run_id=run_id))


async def watched(bus: MemoryBus, want: int) -> list[AlertRaised]:
    """Watch as a monitor that was just started would, until so many alerts are in the log."""
    deps = Deps(bus, Runs(bus, Settings()), Chunks(), Nvml(), lambda: 0.0, 0.0)
    task = asyncio.create_task(watch_dead_letters(deps))
    found = []
    while len(found) < want:
        await asyncio.sleep(0.001)
        assert not task.done(), task.exception()
        found = await bus.events(name="alert_raised")
    for _ in range(20):  # no more than that
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return [each.message for each in await bus.events(name="alert_raised")]  # type: ignore[misc]


async def test_they_reach_the_log_once_over_restarts_and_only_for_runs_that_are_known(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "LOOK_SEC", 0.0)
    await bus.publish(RunStarted(run_id=RUN, spec=run_spec("/nowhere")))
    for run_id in (RUN, OTHER, "no run"):
        await bury(bus, run_id)
    (alert,) = await watched(bus, 1)
    assert (alert.run_id, alert.channel) == (RUN, "dead_letters_trainer")
    assert "the trainer's log says which" in alert.detail
    assert len(await watched(bus, 1)) == 1
    await bury(bus, RUN)
    assert [each.ordinal for each in await watched(bus, 2)] == [1, 2]


async def test_a_server_that_does_not_answer_ends_nothing(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(letters, "LOOK_SEC", 0.0)

    async def away() -> list[Backlog]:
        raise BusError("no answer")

    monkeypatch.setattr(bus, "backlog", away)
    await watched(bus, 0)
    assert "dead letters cannot be counted" in "".join(capsys.readouterr())  # wherever logs go by now
