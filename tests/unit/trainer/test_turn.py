"""Whose turn it is among trainers with state directories of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.trainer import turn
from services.trainer.turn import Turn
from shared.bus.memory import MemoryBus
from shared.bus.wire import Envelope
from shared.errors import WorldloopError
from shared.events import NO_RUN, Heartbeat, LauncherKilled, TrainerStarted
from shared.settings import Settings

BEAT_SEC = 0.1
PATIENCE_SEC = 5 * BEAT_SEC
"""Longer than a silent trainer is waited for."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn, "LOOK_SEC", 0.01)
    monkeypatch.setattr(turn, "LONGEST_LOOK_SEC", 0.01)  # however slow the machine is


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus("trainer")


def trainer(bus: MemoryBus, state_dir: Path, node_rank: int = 0) -> Turn:
    return Turn(bus, Settings(state_dir=state_dir, node_rank=node_rank, heartbeat_sec=BEAT_SEC))


async def started(bus: MemoryBus) -> list[TrainerStarted]:
    return [each.message for each in await bus.events(NO_RUN) if isinstance(each.message, TrainerStarted)]


@contextlib.asynccontextmanager
async def beating(bus: MemoryBus) -> AsyncIterator[None]:
    """The trainers of this process send heartbeats."""

    async def beat() -> None:
        while True:
            about = {"service": "trainer", "pid": os.getpid(), "host": socket.gethostname()}
            await bus.publish(Heartbeat.model_validate({"run_id": NO_RUN, "working_on": [], **about}))
            await asyncio.sleep(BEAT_SEC / 2)

    task = asyncio.create_task(beat())
    yield
    task.cancel()


async def test_a_trainer_waits_for_as_long_as_another_is_heard(bus: MemoryBus, tmp_path: Path) -> None:
    first, second = trainer(bus, tmp_path / "a"), trainer(bus, tmp_path / "b")
    async with beating(bus):
        await first.take()
        taking = asyncio.create_task(second.take())
        await asyncio.sleep(PATIENCE_SEC)
        assert not taking.done()
    await taking
    assert len({each.place for each in await started(bus)}) == 2


async def test_one_whose_place_was_taken_is_told(bus: MemoryBus, tmp_path: Path) -> None:
    first, second = trainer(bus, tmp_path / "a"), trainer(bus, tmp_path / "b")
    await first.take()
    keeping = asyncio.create_task(first.keep())
    await trainer(bus, tmp_path / "a", node_rank=1).take()
    await asyncio.sleep(0)
    assert not keeping.done(), "that one is of another host of a chunk"
    await second.take()
    with pytest.raises(WorldloopError, match="has taken over"):
        await keeping


async def test_of_two_that_begin_at_once_one_waits(bus: MemoryBus, tmp_path: Path) -> None:
    async with beating(bus):
        both = [asyncio.create_task(trainer(bus, tmp_path / name).take()) for name in "ab"]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(PATIENCE_SEC)
        assert [task.done() for task in both].count(True) == 1
    await asyncio.gather(*both)


async def test_the_trainer_before_it_in_its_own_state_directory_is_not_waited_for(
    bus: MemoryBus, tmp_path: Path
) -> None:
    async with beating(bus), asyncio.timeout(60):
        await trainer(bus, tmp_path / "a").take()
        await trainer(bus, tmp_path / "a").take()
        await trainer(bus, tmp_path / "b", node_rank=1).take()


async def test_one_with_a_copy_of_its_state_directory_on_another_host_is_waited_for(
    bus: MemoryBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with beating(bus):
        await trainer(bus, tmp_path / "a").take()
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        second = trainer(bus, tmp_path / "b")
        monkeypatch.setattr(second, "_host", "another")
        taking = asyncio.create_task(second.take())
        await asyncio.sleep(PATIENCE_SEC)
        assert not taking.done()
    await taking
    assert [each.host for each in await started(bus)] == [socket.gethostname(), "another"]


async def test_an_event_that_nobody_can_read_keeps_no_trainer_from_its_work(
    bus: MemoryBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.broker.put(Envelope(f"worldloop.{NO_RUN}.event.trainer_started", b"{}", {"ce-id": "x"}))
    append, tried = bus.append, list[int]()

    async def counted(event: TrainerStarted, *, after: int) -> int:
        tried.append(after)
        assert len(tried) < 50
        return await append(event, after=after)

    monkeypatch.setattr(bus, "append", counted)
    await trainer(bus, tmp_path / "a").take()
    assert tried == [*[0] * (turn.UNREADABLE + 1), 1]


async def test_one_that_came_back_is_waited_for_anew(bus: MemoryBus, tmp_path: Path) -> None:
    await trainer(bus, tmp_path / "a").take()
    taking = asyncio.create_task(trainer(bus, tmp_path / "b").take())
    await asyncio.sleep(BEAT_SEC)
    async with beating(bus):
        await trainer(bus, tmp_path / "a").take()
        await asyncio.sleep(PATIENCE_SEC)
        assert not taking.done()
    await taking


async def test_what_else_comes_into_the_log_does_not_make_it_wait_anew(
    bus: MemoryBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trainer(bus, tmp_path / "a").take()
    append, refused = bus.append, list[int]()

    async def beaten(event: TrainerStarted, *, after: int) -> int:
        if not refused:
            refused.append(after)
            killed = LauncherKilled(run_id=NO_RUN, pid=1, command_line="", why="", started_at=0)
            await bus.publish(killed)
        return await append(event, after=after)

    async def silent(_: Turn, other: TrainerStarted) -> None:
        waits.append(other)

    waits = list[TrainerStarted]()
    monkeypatch.setattr(bus, "append", beaten)
    monkeypatch.setattr(Turn, "_silent", silent)
    await trainer(bus, tmp_path / "b").take()
    assert (len(refused), len(waits), len(await started(bus))) == (1, 1, 2)


async def test_silence_does_not_count_while_the_server_is_away(bus: MemoryBus, tmp_path: Path) -> None:
    await trainer(bus, tmp_path / "a").take()
    taking = asyncio.create_task(trainer(bus, tmp_path / "b").take())
    await bus.close()
    await asyncio.sleep(PATIENCE_SEC)
    assert not taking.done()
    bus._open = True
    await taking
