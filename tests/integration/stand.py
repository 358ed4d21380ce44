"""A run and a real trainer to train it, for the tests of the training processes."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from services.trainer.core.launch import ENTRY
from services.trainer.main import bootstrap
from shared.bundle import Bundle
from shared.bus.memory import MemoryBus
from shared.bus.protocol import Bus
from shared.config import StageConfig
from shared.events import (
    STAGES,
    CheckoutSpec,
    ChunkDone,
    ChunkPlan,
    ChunkStarted,
    ContinueChunk,
    Message,
    RunPaused,
    RunSpec,
    RunStarted,
    Schedule,
    Stage,
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
    of_plan = ("resume_from", "upstream", "ends_stage", "overshoot")
    named = {key: changes.pop(key) for key in of_plan if key in changes}
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
    checkout: CheckoutSpec | None = None

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
            backend="checkout" if self.checkout is not None else "own",
            checkout=self.checkout,
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
        return load(self.bundle.checkpoint(stage, step))

    def history(self, stage: Stage) -> list[dict[str, str]]:
        """All attempts' rows without the one column that is about time."""
        rows: list[dict[str, str]] = []
        for path in sorted((self.bundle.logs / "history" / stage).iterdir()):
            with path.open(newline="") as stream:
                rows += [{k: v for k, v in row.items() if k != "_runtime"} for row in csv.DictReader(stream)]
        return rows


Stands = Callable[..., Awaitable[Stand]]


def marked(process: psutil.Process, root: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.environ().get("WORLDLOOP_STACK", "").startswith(str(root))
    return False


def load(directory: Path) -> list[Any]:
    """Weights and optimizer state of a checkpoint."""
    files = ("model_state_dict.pt", "optim_state_dict.pt")
    return [torch.load(directory / name, weights_only=True) for name in files]


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
