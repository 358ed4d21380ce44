"""One chunk over two hosts: two trainers, here on one machine, each with its own part of the launch."""

from __future__ import annotations

import asyncio
import contextlib
import math
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psutil
import pytest

from services import nats_server as program
from services.trainer import group as training
from services.trainer import launcher, party, trainer
from services.trainer.core.launch import ENTRY, LAUNCHER, Meeting
from services.trainer.group import Group
from services.trainer.main import bootstrap
from shared.bus.memory import MemoryBus
from shared.events import ChunkPlan, ChunkStarted, NodeJoined, NodeLost, RunPaused, StopChunk, TrainProgress
from shared.service import serve
from shared.settings import Settings
from tests.integration import tiny_node
from tests.integration.stand import RUN, Stand, Stands, assert_equal, checkpoint, gone, marked, plan, ranks_of
from tests.integration.test_hang import Patience

STEPS = 200


class Host:
    """The trainer of node 1, on the bus of a stand."""

    def __init__(self, stand: Stand) -> None:
        assert isinstance(stand.bus, MemoryBus)
        self.root, self._broker = stand.root / "node_1", stand.bus.broker
        self._settings = Settings(state_dir=self.root / "state", cache_dir=self.root / "cache", node_rank=1)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        bus = MemoryBus("trainer", broker=self._broker)
        app = await bootstrap(bus, self._settings)
        self._task = asyncio.create_task(serve(app, bus, self._settings))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def settled(self) -> None:
        """Wait until it has dealt with all that was published."""
        while any(self._broker.queues[name] for name in self._broker.queues if "node-1" in name[1]):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def processes(self) -> list[psutil.Process]:
        return [each for each in psutil.process_iter() if marked(each, self.root)]


Hosts = Callable[[Stand], Awaitable[Host]]


@pytest.fixture
async def hosts(stands: Stands) -> AsyncIterator[Hosts]:
    made: list[Host] = []

    async def start(stand: Stand) -> Host:
        made.append(Host(stand))
        await made[-1].start()
        return made[-1]

    yield start
    for host in made:
        await host.stop()
        assert not host.processes()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have parts launched that do not import torch."""

    def command(python: str, ranks: int, meeting: Meeting) -> list[str]:
        return [python, "-m", tiny_node.__name__, str(meeting.node_rank), meeting.endpoint, ENTRY]

    monkeypatch.setattr(training, "command", command)
    monkeypatch.setattr(training, "PARTING_SEC", 1.0)
    monkeypatch.setattr(party, "WORD_SEC", 5.0)
    monkeypatch.setattr(trainer, "ABSENT_SEC", 0.0)


def spanning(start: int = 0, target: int = STEPS, *, attempt: int = 1, **changes: Any) -> ChunkPlan:
    where = {"nnodes": 2, "rdzv_endpoint": f"127.0.0.1:{program.free_port()}", "nproc_per_node": 1}
    return plan("video_tokenizer", start, target, attempt=attempt, **(where | changes))


async def at_work(stand: Stand, launch: int = 1, step: int = 1) -> None:
    """Wait until both parts of a launch are there and it has made steps."""
    await stand.heard(NodeJoined, lambda event: event.launch == launch)
    await stand.heard(TrainProgress, lambda event: event.step >= step)


@pytest.mark.slow
async def test_two_hosts_train_the_same_bits_as_one_though_a_rank_is_killed(
    stands: Stands, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "cores", lambda: 1)  # as many threads add in the same order
    whole, pieces = await stands("whole"), await stands("pieces")
    host = await hosts(pieces)
    one = asyncio.create_task(
        whole.train(plan("video_tokenizer", 0, 40, attempt=1, nproc_per_node=2, ends_stage=True))
    )
    where = {"rdzv_endpoint": f"127.0.0.1:{program.free_port()}"}
    first = await pieces.train(spanning(0, 4, attempt=1, **where))
    last = spanning(4, 40, attempt=2, resume_from=checkpoint(first), ends_stage=True, **where)
    await pieces.send(last)
    assert (await pieces.at_work(last)).warm
    [agent] = [each for each in host.processes() if LAUNCHER in each.cmdline()]
    ranks_of(agent.pid)[0].kill()
    done = await pieces.done(last)
    assert (done.reason, done.launch, done.world_size, len(done.cpu_seconds)) == ("completed", 2, 2, 2)
    assert (await pieces.heard(NodeLost)).death == "killed"
    assert (await one).reason == "completed"
    assert_equal("video_tokenizer", whole, pieces)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
async def test_a_part_that_is_ended_takes_the_launch_with_it_and_the_next_one_ends_well(
    stands: Stands, hosts: Hosts, tiny: None, how: signal.Signals
) -> None:
    stand = await stands()
    host = await hosts(stand)
    chunk = spanning()
    await stand.send(chunk)
    await at_work(stand)
    [part] = host.processes()
    part.send_signal(how)
    done = await stand.done(chunk)
    assert (done.reason, done.end_step, done.launch) == ("completed", STEPS, 2)


async def test_the_trainer_of_another_host_may_die_and_come_back(
    stands: Stands, hosts: Hosts, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(party, "WORD_SEC", 0.5)  # it cannot say anything
    stand = await stands()
    host = await hosts(stand)
    chunk = spanning()
    await stand.send(chunk)
    await at_work(stand)
    await host.stop()
    assert not host.processes(), "no orphan"
    await stand.heard(ChunkStarted, lambda event: event.launch == 2)
    await host.start()
    done = await stand.done(chunk)
    assert (done.reason, done.launch) == ("completed", 2)


async def test_the_trainer_of_node_0_may_die_and_come_back(stands: Stands, hosts: Hosts, tiny: None) -> None:
    stand = await stands()
    host = await hosts(stand)
    chunk = spanning()
    await stand.send(chunk)
    await at_work(stand)
    [part] = host.processes()
    assert stand.task is not None
    stand.task.cancel()
    await gone(part.pid)
    with contextlib.suppress(asyncio.CancelledError):
        await stand.task
    shutil.rmtree(stand.bundle.checkpoints("video_tokenizer"), ignore_errors=True)  # none holds any weights
    await stand.serve()
    done = await stand.done(chunk)
    assert (done.reason, done.launch) == ("completed", 2)


async def test_a_part_that_hangs_is_launched_again_with_the_others(
    stands: Stands, hosts: Hosts, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Group.finish
    patience = Patience(real)

    async def finish(group: Group, heard: Any, *, hang_timeout_sec: float) -> Any:
        where = real(group, heard, hang_timeout_sec=hang_timeout_sec)
        if math.isinf(hang_timeout_sec):  # on the other host
            return await where
        where.close()
        return await patience.finish(group, heard, hang_timeout_sec=hang_timeout_sec)

    monkeypatch.setattr(Group, "finish", finish)
    stand = await stands(kill_grace_sec=0.2)
    host = await hosts(stand)
    chunk = spanning()
    await stand.send(chunk)
    await at_work(stand)
    [part] = host.processes()
    part.suspend()
    patience.end()
    done = await stand.done(chunk)
    assert (done.reason, done.launch, patience.hung) == ("completed", 2, [True, False])
    assert not part.is_running()


async def test_a_host_that_does_not_come_is_waited_for_beyond_every_limit_but_a_stop(
    stands: Stands, tiny: None
) -> None:
    stand = await stands(hang_timeout_sec=0.1, max_relaunches=0)
    chunk = spanning()
    await stand.send(chunk)
    started = await stand.heard(ChunkStarted)
    await asyncio.sleep(0.5)  # five times the patience with a hang
    assert await stand.bus.last_event(RUN, "chunk_done") is None
    await stand.bus.publish(StopChunk(run_id=RUN, stage="video_tokenizer", attempt=1))
    done = await stand.done(chunk)
    assert (done.reason, done.end_step, done.launch) == ("stopped", 0, 1)
    assert not psutil.pid_exists(started.launcher_pid)


async def test_the_limit_of_a_hang_counts_from_when_all_hosts_are_there(
    stands: Stands, hosts: Hosts, tiny: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, finish = list[int](), Group.finish

    async def watch(group: Group, heard: Any, *, hang_timeout_sec: float) -> Any:
        if not math.isinf(hang_timeout_sec):  # on node 0
            watched.append(len(await stand.bus.events(RUN, name="node_joined")))
        return await finish(group, heard, hang_timeout_sec=hang_timeout_sec)

    monkeypatch.setattr(Group, "finish", watch)
    stand = await stands()
    chunk = spanning(target=20)
    await stand.send(chunk)
    await stand.heard(ChunkStarted)
    await hosts(stand)
    assert (await stand.done(chunk)).reason == "completed"
    assert watched == [1]


async def test_a_launch_that_ends_before_all_hosts_came_counts_for_nothing(
    stands: Stands, hosts: Hosts, tiny: None
) -> None:
    stand = await stands(max_relaunches=0)
    chunk = spanning(target=20)
    await stand.send(chunk)
    started = await stand.heard(ChunkStarted)
    psutil.Process(started.launcher_pid).kill()
    await stand.heard(ChunkStarted, lambda event: event.launch == 2)
    await hosts(stand)
    done = await stand.done(chunk)
    assert (done.reason, done.launch) == ("completed", 2)


async def test_parts_stay_for_the_next_chunk_and_a_pause_ends_them_all(
    stands: Stands, hosts: Hosts, tiny: None
) -> None:
    stand = await stands()
    host = await hosts(stand)
    first = spanning(target=20)
    done = await stand.train(first)
    assert done.exit_code is None, "it is kept warm"
    [part] = host.processes()
    await host.settled()
    endpoint = first.parameters["rdzv_endpoint"]
    next_one = await stand.train(spanning(20, 40, attempt=2, rdzv_endpoint=endpoint))
    assert (next_one.reason, next_one.launcher_pid) == ("completed", done.launcher_pid)
    assert host.processes() == [part]
    await stand.bus.publish(RunPaused(run_id=RUN, by="operator", reason="lunch"))
    await gone(part.pid)
    await gone(done.launcher_pid)


async def test_what_fails_on_another_host_is_reported_by_node_0_in_its_words(
    stands: Stands, hosts: Hosts, tiny: None
) -> None:
    stand = await stands()
    await hosts(stand)
    (stand.bundle.root / tiny_node.FAULT).touch()
    done = await stand.train(spanning())
    assert (done.reason, done.launch) == ("runtime_error", 1)
    assert done.stderr_tail.startswith("On node 1")
    assert "this host has no recording" in done.stderr_tail
