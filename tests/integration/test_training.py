"""Real training processes under the trainer: exact resume, ends of all kinds, the warm group."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from services.trainer.core.launch import ENTRY
from services.trainer.main import bootstrap
from shared.bundle import Bundle
from shared.bus.jetstream import JetStreamBus
from shared.bus.memory import MemoryBus
from shared.bus.protocol import Bus
from shared.config import StageConfig
from shared.events import (
    STAGES,
    ChunkDone,
    ChunkPlan,
    ChunkStarted,
    ContinueChunk,
    LauncherKilled,
    Message,
    RunPaused,
    RunSpec,
    RunStarted,
    Schedule,
    Stage,
    StopChunk,
    TrainProgress,
)
from shared.service import serve
from shared.settings import Settings

RUN = "20260101_000000"
FRAMES = Path(__file__).parents[1] / "fixtures" / "pong_frames.h5"
TARGET = 40
TINY = {
    "dataset": str(FRAMES),
    "patch_size": 16,
    "embed_dim": 16,
    "num_heads": 2,
    "hidden_dim": 24,
    "num_blocks": 1,
    "latent_dim": 3,
    "batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "log_interval": 10,
    "n_updates": TARGET,
    "fps": 60,
    "seed": 3,
    "device": "cpu",
    "wandb": "disabled",
}


def plan(stage: Stage, start: int, target: int, *, attempt: int, **changes: Any) -> ChunkPlan:
    named = {key: changes.pop(key) for key in ("resume_from", "upstream", "ends_stage") if key in changes}
    parameters = StageConfig.model_validate(TINY | {"nproc_per_node": 1} | changes)
    return ChunkPlan(
        stage=stage,
        attempt=attempt,
        start_step=start,
        target_step=target,
        schedule=Schedule(peak=parameters.learning_rate, start_step=0, end_step=parameters.n_updates),
        parameters=parameters.model_dump(mode="json"),
        **named,
    )


@dataclass
class Stand:
    """A run, and a trainer to serve it: in this process on a bus in memory, else started by the test."""

    root: Path
    policy: dict[str, Any]
    bus: Bus
    task: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.bundle = Bundle(self.root / RUN, "2026_01_01_00_00_00_pong")
        self.settings = Settings(state_dir=self.root / "state", cache_dir=self.root / "cache")

    async def begin(self) -> None:
        self.bundle.root.mkdir(parents=True)
        spec = RunSpec(
            bundle=str(self.bundle.root),
            run_name=self.bundle.run_name,
            profile="test",
            configuration={},
            policy={"trainer": self.policy},
            origins={},
            stages=list(STAGES),
        )
        await self.bus.publish(RunStarted(run_id=RUN, spec=spec))
        await self.serve()

    async def serve(self) -> None:
        if isinstance(self.bus, MemoryBus):
            bus = MemoryBus("trainer", broker=self.bus.broker)
            self.task = asyncio.create_task(serve(await bootstrap(bus, self.settings), bus, self.settings))

    async def end(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
        await self.bus.close()

    def start_service(self, url: str) -> subprocess.Popen[bytes]:
        places = {"STATE_DIR": str(self.settings.state_dir), "CACHE_DIR": str(self.settings.cache_dir)}
        ours = {f"WORLDLOOP_{name}": value for name, value in (places | {"NATS_URL": url}).items()}
        return subprocess.Popen([sys.executable, "-m", "services.trainer.main"], env={**os.environ, **ours})

    def start_stray(self) -> subprocess.Popen[bytes]:
        """A training launcher of this stack that does nothing."""
        mark = {"WORLDLOOP_STACK": str(self.settings.state_dir)}
        script = self.root / "scripts" / "train_dynamics.py"
        script.parent.mkdir()
        script.write_text("import time; time.sleep(600)")
        return subprocess.Popen([sys.executable, str(script)], env={**os.environ, **mark})

    async def send(self, plan: ChunkPlan) -> None:
        await self.bus.publish(ContinueChunk(run_id=RUN, plan=plan))

    async def heard(self, kind: type[Message], wanted: Callable[[Any], bool] = lambda _: True) -> Any:
        """Wait for a message; events may have come before, and the trainer must not die meanwhile."""
        hearing = asyncio.ensure_future(self._hear(kind, wanted))
        alive = {self.task} if self.task is not None else set()
        done, _ = await asyncio.wait({hearing, *alive}, return_when=asyncio.FIRST_COMPLETED)
        if hearing not in done:
            hearing.cancel()
            await asyncio.gather(*alive)
        return await hearing

    async def _hear(self, kind: type[Message], wanted: Callable[[Any], bool]) -> Any:
        async with contextlib.aclosing(self.bus.follow(("event", "telemetry"), RUN)) as messages:
            async for record in messages:
                if isinstance(record.message, kind) and wanted(record.message):
                    return record.message
        raise AssertionError

    async def done(self, plan: ChunkPlan) -> ChunkDone:
        name = plan.stage, plan.attempt
        done: ChunkDone = await self.heard(ChunkDone, lambda event: (event.stage, event.attempt) == name)
        return done

    async def train(self, plan: ChunkPlan) -> ChunkDone:
        await self.send(plan)
        return await self.done(plan)

    async def at_work(self, plan: ChunkPlan) -> ChunkStarted:
        """Wait until the plan's updates are being made."""
        await self.heard(TrainProgress, lambda event: event.attempt == plan.attempt)
        started = await self.bus.last_event(RUN, "chunk_started")
        assert started is not None
        assert isinstance(started.message, ChunkStarted)
        return started.message

    def weights(self, stage: Stage, step: int) -> list[Any]:
        files = ("model_state_dict.pt", "optim_state_dict.pt")
        directory = self.bundle.checkpoint(stage, step)
        return [torch.load(directory / name, weights_only=True) for name in files]

    def history(self, stage: Stage) -> list[dict[str, str]]:
        """All attempts' rows without the one column that is about time."""
        rows: list[dict[str, str]] = []
        for path in sorted((self.bundle.logs / "history" / stage).iterdir()):
            with path.open(newline="") as stream:
                rows += [{k: v for k, v in row.items() if k != "_runtime"} for row in csv.DictReader(stream)]
        return rows


Stands = Callable[..., Awaitable[Stand]]


@pytest.fixture
async def stands(tmp_path: Path) -> AsyncIterator[Stands]:
    made: list[Stand] = []

    async def make(name: str = "a", *, bus: Bus | None = None, **policy: Any) -> Stand:
        made.append(Stand(tmp_path / name, policy, MemoryBus() if bus is None else bus))
        await made[-1].begin()
        return made[-1]

    yield make
    for stand in made:
        await stand.end()
    assert not [process for process in psutil.process_iter() if marked(process, tmp_path)]
    assert not list(tmp_path.glob("*/state/tmp/*"))


def marked(process: psutil.Process, root: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.environ().get("WORLDLOOP_STACK", "").startswith(str(root))
    return False


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


async def gone(pid: int) -> None:
    for _ in range(1200):
        if not psutil.pid_exists(pid):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"process {pid} lives on")


def checkpoint(done: ChunkDone) -> str:
    return done.checkpoints[-1].path


def ranks_of(launcher: int) -> list[psutil.Process]:
    """Rank 0 first."""
    process = psutil.Process(launcher)
    workers = [each for each in process.children(recursive=True) if each.cmdline()[-1:] == [ENTRY]]
    return sorted(workers or [process], key=lambda each: int(each.environ().get("RANK", "0")))


async def in_pieces(
    stand: Stand, stage: Stage, *, killed_rank: int, pause: bool = False, **changes: Any
) -> list[ChunkDone]:
    """Three chunks: the second warm or after a pause, the third warm and hit by SIGKILL in its middle."""
    first = await stand.train(plan(stage, 0, 4, attempt=1, **changes))
    if pause:
        await stand.bus.publish(RunPaused(run_id=RUN, by="operator", reason="lunch"))
        await gone(first.launcher_pid)
    second = await stand.train(plan(stage, 4, 8, attempt=2, resume_from=checkpoint(first), **changes))
    assert (first.launcher_pid != second.launcher_pid) is pause
    last = plan(stage, 8, TARGET, attempt=3, resume_from=checkpoint(second), ends_stage=True, **changes)
    await stand.send(last)
    started = await stand.at_work(last)
    assert started.warm
    ranks_of(started.launcher_pid)[killed_rank].kill()
    return [first, second, await stand.done(last)]


def assert_equal(stage: Stage, whole: Stand, pieces: Stand) -> None:
    assert same(whole.weights(stage, TARGET), pieces.weights(stage, TARGET))
    assert whole.history(stage) == pieces.history(stage)
    assert [int(row["_step"]) for row in whole.history(stage)] == list(range(TARGET))


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_one_chunk_equals_three_paused_warm_and_killed_ones_in_each_stage(stands: Stands) -> None:
    whole, pieces = await stands("whole"), await stands("pieces")
    upstream: dict[Stage, str] = {}
    for stage in STAGES:
        one, many = await asyncio.gather(
            whole.train(plan(stage, 0, TARGET, attempt=1, ends_stage=True, upstream=upstream)),
            in_pieces(pieces, stage, killed_rank=0, pause=stage == "video_tokenizer", upstream=upstream),
        )
        assert [done.reason for done in (one, *many)] == ["completed"] * 4
        assert [done.launch for done in many] == [1, 1, 2]
        assert [done.exit_code for done in (one, *many)] == [0, None, None, 0]
        assert [each.step for each in many[-1].checkpoints] == [4, 8, 10, 20, 30, 40]
        assert {"first_update_begin", "last_update_end", "checkpoint", "visualization"} == {*many[-1].timing}
        assert_equal(stage, whole, pieces)
        upstream[stage] = checkpoint(one)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_two_ranks_are_as_exact_and_their_rows_go_to_wandb(stands: Stands) -> None:
    whole, pieces = await stands("whole"), await stands("pieces")
    one, many = await asyncio.gather(
        whole.train(plan("latent_actions", 0, TARGET, attempt=1, ends_stage=True, nproc_per_node=2)),
        in_pieces(pieces, "latent_actions", killed_rank=1, nproc_per_node=2, wandb="offline"),
    )
    assert [done.launch for done in many] == [1, 1, 2]
    assert len(one.cpu_seconds) == 2
    assert_equal("latent_actions", whole, pieces)
    assert many[0].wandb_run_id == many[1].wandb_run_id != many[2].wandb_run_id
    assert all(list(pieces.bundle.resolve(done.wandb_dir or "").glob("*.wandb")) for done in many)


async def test_a_stop_ends_the_chunk_with_a_checkpoint_and_the_group(stands: Stands) -> None:
    stand = await stands()
    endless = plan("video_tokenizer", 0, 100_000, attempt=1, n_updates=100_000)
    await stand.send(endless)
    await stand.at_work(endless)
    await stand.bus.publish(StopChunk(run_id=RUN, stage="video_tokenizer", attempt=1))
    done = await stand.done(endless)
    assert (done.reason, done.exit_code) == ("stopped", 0)
    assert 0 < done.end_step < 100_000
    assert done.checkpoints[-1].step == done.end_step
    assert not psutil.pid_exists(done.launcher_pid)


async def test_what_needs_no_training_launches_nothing(stands: Stands) -> None:
    stand = await stands()
    passed = plan("video_tokenizer", 0, 0, attempt=1)
    await stand.bus.publish(StopChunk(run_id=RUN, stage="video_tokenizer", attempt=2))
    assert (await stand.train(passed)).reason == "completed"
    await stand.bus.publish(ContinueChunk(run_id=RUN, plan=passed, retry=1))  # changes nothing
    assert (await stand.train(plan("video_tokenizer", 0, TARGET, attempt=2))).reason == "stopped"
    names = [record.message.name for record in await stand.bus.events(RUN)]
    assert names == ["run_started", "chunk_done", "chunk_done"]


async def test_a_plan_that_could_not_be_launched_is_not_acked(stands: Stands) -> None:
    stand = await stands()
    obstacle = stand.bundle.logs / "training"
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.touch()
    first = plan("video_tokenizer", 0, 4, attempt=1)
    await stand.send(first)
    assert stand.task is not None
    with pytest.raises(ExceptionGroup):
        await stand.task
    obstacle.unlink()
    await stand.serve()
    assert (await stand.done(first)).reason == "completed"


async def test_a_loss_that_is_no_number_leaves_no_checkpoint_and_the_group_begins_afresh(
    stands: Stands,
) -> None:
    stand, other = await stands("a"), await stands("b")
    good = plan("video_tokenizer", 0, 6, attempt=2)
    broken, reference = await asyncio.gather(
        stand.train(plan("video_tokenizer", 0, TARGET, attempt=1, learning_rate=1e30)), other.train(good)
    )
    assert (broken.reason, broken.checkpoints) == ("non_finite", [])
    assert broken.end_step < TARGET
    again = await stand.train(good)
    assert again.launcher_pid == broken.launcher_pid
    assert again.reason == reference.reason == "completed"
    assert same(stand.weights("video_tokenizer", 6), other.weights("video_tokenizer", 6))


async def test_ends_that_are_the_plans_fault_are_reported_and_not_tried_again(stands: Stands) -> None:
    a, b, c = await stands("a"), await stands("b"), await stands("c", min_free_disk_mb=10**12)
    memory, data, disk = await asyncio.gather(
        a.train(plan("video_tokenizer", 0, TARGET, attempt=1, hidden_dim=10**12)),
        b.train(plan("video_tokenizer", 0, TARGET, attempt=1, dataset="nowhere.h5")),
        c.train(plan("video_tokenizer", 0, TARGET, attempt=1)),
    )
    assert [done.reason for done in (memory, data, disk)] == ["oom", "runtime_error", "runtime_error"]
    assert [done.launch for done in (memory, data, disk)] == [1, 1, 1]
    assert "nowhere.h5: no such dataset" in data.stderr_tail
    assert "min_free_disk_mb" in disk.stderr_tail


async def test_a_group_whose_step_stands_still_is_relaunched_until_that_is_in_vain(stands: Stands) -> None:
    stand = await stands("a", hang_timeout_sec=0.2, max_relaunches=1)
    done = await stand.train(plan("video_tokenizer", 0, TARGET, attempt=1))
    assert (done.reason, done.launch) == ("runtime_error", 2)
    assert "hung, and relaunching it did not help" in done.stderr_tail


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_after_a_trainer_that_was_killed_the_next_one_ends_as_if_nothing_had_happened(
    stands: Stands, fresh_nats_server: Any
) -> None:
    long = plan("video_tokenizer", 0, 200, attempt=1, n_updates=200)
    undisturbed = await stands("undisturbed")
    reference = asyncio.create_task(undisturbed.train(long))
    killed = await stands("killed", bus=await JetStreamBus.connect(fresh_nats_server.url, source="cli"))
    first = killed.start_service(fresh_nats_server.url)
    await killed.send(long)
    members = ranks_of((await killed.at_work(long)).launcher_pid)
    first.kill()
    first.wait()
    for member in members:
        await gone(member.pid)
    stray = killed.start_stray()
    second = killed.start_service(fresh_nats_server.url)
    done = await killed.done(long)
    assert (done.reason, done.launch) == ("completed", 2)
    assert stray.wait() < 0
    assert (await killed.heard(LauncherKilled)).pid == stray.pid
    await reference
    assert same(undisturbed.weights("video_tokenizer", 200), killed.weights("video_tokenizer", 200))
    assert undisturbed.history("video_tokenizer") == killed.history("video_tokenizer")
    second.terminate()
    assert second.wait() == 0
