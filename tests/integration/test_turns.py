"""Two trainers with state directories of their own: one works, the other takes over when that one is gone."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.trainer import group as training
from services.trainer import turn
from services.trainer.core.launch import ENTRY
from services.trainer.main import bootstrap
from shared.bus.jetstream import JetStreamBus
from shared.bus.memory import MemoryBus
from shared.events import NO_RUN, TrainerStarted, TrainProgress
from shared.service import serve
from shared.settings import Settings
from tests.integration import tiny_worker
from tests.integration.stand import Stand, Stands, marked, plan

BEAT_SEC = 0.3
STEPS = 200
CHUNK = plan("video_tokenizer", 0, STEPS, attempt=1, n_updates=STEPS)


@pytest.fixture(autouse=True)
def go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Heartbeats come fast; groups do not import torch, and train slowly until this file is there."""

    def command(python: str, ranks: int, _: object) -> list[str]:
        return [python, tiny_worker.__file__, str(ranks), ENTRY]

    monkeypatch.setattr(training, "command", command)
    monkeypatch.setattr(turn, "LONGEST_LOOK_SEC", turn.LOOK_SEC)  # however slow the machine is
    monkeypatch.setenv("WORLDLOOP_HEARTBEAT_SEC", str(BEAT_SEC))
    monkeypatch.setenv(tiny_worker.GO, str(tmp_path / "go"))
    return tmp_path / "go"


def another(stand: Stand) -> asyncio.Task[None]:
    """A trainer on the bus of a stand, with a state directory of its own."""
    assert isinstance(stand.bus, MemoryBus)
    bus = MemoryBus("trainer", broker=stand.bus.broker)
    settings = Settings(state_dir=stand.root / "b" / "state", cache_dir=stand.root / "b" / "cache")

    async def work() -> None:
        await serve(await bootstrap(bus, settings), bus, settings)

    return asyncio.create_task(work())


async def started(stand: Stand, number: int) -> TrainerStarted:
    """Wait until so many trainers have had their turn; the last of them."""
    async with contextlib.aclosing(stand.bus.follow(("event",), NO_RUN)) as events:
        async for record in events:
            if isinstance(record.message, TrainerStarted):
                number -= 1
                if number == 0:
                    return record.message
    raise AssertionError


async def beats(stand: Stand, number: int) -> None:
    """Wait for so many heartbeats."""
    async with contextlib.aclosing(stand.bus.follow(("telemetry",), NO_RUN)) as readings:
        async for _ in readings:
            number -= 1
            if number == 0:
                return


async def test_a_second_trainer_goes_on_with_the_chunk_of_one_that_is_gone(stands: Stands, go: Path) -> None:
    stand = await stands()
    second = another(stand)
    await stand.send(CHUNK)
    await stand.heard(TrainProgress)
    assert len(await stand.bus.events(NO_RUN)) == 1, "the second one waits"
    assert stand.task is not None
    stand.task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await stand.task
    stand.task = second
    go.touch()
    done = await stand.done(CHUNK)
    assert (done.reason, done.end_step, done.launch) == ("completed", STEPS, 2)


async def test_a_trainer_whose_place_was_taken_ends_with_its_ranks(
    stands: Stands, go: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLDLOOP_HEARTBEAT_SEC", "600")
    stand = await stands()
    monkeypatch.setenv("WORLDLOOP_HEARTBEAT_SEC", str(BEAT_SEC))
    await stand.send(CHUNK)
    await stand.heard(TrainProgress)
    first, stand.task = stand.task, another(stand)
    assert first is not None
    with pytest.raises(ExceptionGroup) as error:
        await first
    assert "has taken over" in str(error.value.exceptions[0])
    assert not [each for each in psutil.process_iter() if marked(each, stand.settings.state_dir)]
    go.touch()
    done = await stand.done(CHUNK)
    assert (done.reason, done.launch) == ("completed", 2)


async def test_of_two_trainer_processes_of_one_server_the_second_begins_when_the_first_was_killed(
    stands: Stands, fresh_nats_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLDLOOP_HEARTBEAT_SEC", "1")
    stand = await stands(bus=await JetStreamBus.connect(fresh_nats_server.url, source="cli"))
    with stand.start_service(fresh_nats_server.url) as first:
        try:
            assert (await started(stand, 1)).pid == first.pid
            stand.settings = Settings(state_dir=tmp_path / "b")
            with stand.start_service(fresh_nats_server.url) as second:
                try:
                    await beats(stand, 4)
                    assert len(await stand.bus.events(NO_RUN)) == 1, "the second one waits"
                    first.kill()
                    assert (await started(stand, 2)).pid == second.pid
                finally:
                    second.terminate()
        finally:
            first.kill()
    assert second.wait() == 0
