"""Ranks that live but do not get on (stopped, looping or waiting for ever), or that the kernel ends."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.trainer import group as training
from services.trainer import host_memory
from services.trainer.core.launch import ENTRY
from services.trainer.group import Gone, Group
from services.trainer.wire import Finished, Ready
from shared.events import ChunkStarted, LauncherKilled, TrainProgress
from tests.integration import tiny_worker
from tests.integration.stand import RUN, Stand, Stands, gone, plan, ranks_of

HANG_SEC = 1.5
"""How long a step may stand still once a rank hangs."""
TARGET = 300
SPIN, WAIT = signal.SIGUSR1, signal.SIGUSR2
HOOK = """
import signal, sys
def spin(*_):
    while True:
        pass
if sys.orig_argv[-2:] == ["-m", "services.trainer.worker"]:
    signal.signal(signal.SIGUSR1, spin)
"""
"""Read by every Python that starts: a rank loops when the signal says so."""


class Patience(float):
    """The limit of the trainer's groups: short from a hang to the next launch, else none.

    Launching takes as long as the machine is busy, and is not what is tested here.
    """

    def __init__(self, finish: Callable[..., Awaitable[Finished | Gone]]) -> None:
        self._finish, self.hung = finish, list[bool]()

    def __new__(cls, _: object) -> Patience:
        return super().__new__(cls)

    def __radd__(self, advanced: float) -> float:
        return advanced + (HANG_SEC if self._over else 600)

    def end(self) -> None:
        """From now on a step may not stand still."""
        self._over = True
        self._group._reports.put_nowait(Ready(pids=[]))  # says nothing new: has the group look at the limit

    async def finish(self, group: Group, heard: Any, *, hang_timeout_sec: float) -> Finished | Gone:
        assert hang_timeout_sec == 600, "the policy's"
        self._group, self._over = group, False
        end = await self._finish(group, heard, hang_timeout_sec=self)
        self.hung.append(isinstance(end, Gone) and end.hung)
        return end


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Patience:
    patience = Patience(Group.finish)

    async def finish(group: Group, heard: Any, **given: float) -> Finished | Gone:
        return await patience.finish(group, heard, **given)

    monkeypatch.setattr(Group, "finish", finish)
    return patience


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have groups launched whose ranks do not import torch."""

    def command(python: str, ranks: int, _: object) -> list[str]:
        return [python, tiny_worker.__file__, str(ranks), ENTRY]

    monkeypatch.setattr(training, "command", command)


async def hang(
    stand: Stand, patience: Patience, how: signal.Signals, *, rank: int, after: int
) -> dict[Path, int]:
    """Have a rank hang once a step is reached.

    Returns:
        The checkpoints there are then, and when each was written.
    """
    await stand.heard(TrainProgress, lambda event: event.step >= after)
    started = await stand.bus.last_event(RUN, "chunk_started")
    assert started is not None
    assert isinstance(started.message, ChunkStarted)
    members = ranks_of(started.message.launcher_pid)
    members[rank].send_signal(how)
    patience.end()
    for member in members:
        await gone(member.pid)
    return written(stand)


def written(stand: Stand) -> dict[Path, int]:
    found = stand.bundle.checkpoints("video_tokenizer").glob("*/model_state_dict.pt")
    return {path: path.stat().st_mtime_ns for path in found}


@pytest.mark.slow
async def test_a_rank_that_loops_is_relaunched_from_the_newest_checkpoint(
    stands: Stands, patience: Patience, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hook"))
    stand = await stands(keep_last=1000, kill_grace_sec=0.5)
    chunk = plan("video_tokenizer", 0, TARGET, attempt=1, n_updates=TARGET, ends_stage=True)
    await stand.send(chunk)
    before = await hang(stand, patience, SPIN, rank=0, after=20)
    assert before, "it had saved something"
    done = await stand.done(chunk)
    assert (done.reason, done.end_step, done.attempt) == ("completed", TARGET, 1)
    assert (done.launch, patience.hung) == (2, [True, False])
    assert before.items() <= written(stand).items(), "nothing saved was trained again"
    assert [int(row["_step"]) for row in stand.history("video_tokenizer")] == list(range(TARGET))
    assert not [r for r in await stand.bus.events(RUN) if isinstance(r.message, LauncherKilled)]


@pytest.mark.usefixtures("tiny")
async def test_a_group_hangs_with_any_of_its_ranks_and_as_often_as_it_hangs_it_is_relaunched(
    stands: Stands, patience: Patience, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tiny_worker.GO, str(tmp_path / "go"))
    stand = await stands(keep_last=1000, kill_grace_sec=0.5)
    chunk = plan("video_tokenizer", 0, TARGET, attempt=1, n_updates=TARGET, ends_stage=True, nproc_per_node=2)
    await stand.send(chunk)
    stopped = await hang(stand, patience, signal.SIGSTOP, rank=1, after=20)
    waited = await hang(stand, patience, WAIT, rank=0, after=max(map(step, stopped)) + 20)
    (tmp_path / "go").touch()
    done = await stand.done(chunk)
    assert (done.reason, done.end_step, done.attempt) == ("completed", TARGET, 1)
    assert (done.launch, patience.hung) == (3, [True, True, False])
    assert stopped.items() <= waited.items() <= written(stand).items()
    assert not psutil.pid_exists(done.launcher_pid)


@pytest.mark.usefixtures("tiny")
async def test_a_rank_that_the_kernel_ended_for_want_of_memory_is_not_relaunched(
    stands: Stands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter, membership = tmp_path / host_memory.EVENTS, tmp_path / "membership"
    counter.write_text("oom 0\noom_kill 4\n")
    membership.write_text("0::/\n")
    read = host_memory.oom_kills
    monkeypatch.setattr(host_memory, "oom_kills", lambda: read(tmp_path, membership))
    stand = await stands()
    chunk = plan("video_tokenizer", 0, 100_000, attempt=1, n_updates=100_000)
    await stand.send(chunk)
    (rank,) = ranks_of((await stand.at_work(chunk)).launcher_pid)
    counter.write_text("oom 1\noom_kill 5\n")  # as the kernel does it: counted, then killed
    rank.kill()
    done = await stand.done(chunk)
    assert (done.reason, done.launch, done.exit_code) == ("oom", 1, -signal.SIGKILL)
    assert "out of host memory" in done.stderr_tail


def step(model: Path) -> int:
    return int(model.parent.name.rpartition("_")[2]) + 1
