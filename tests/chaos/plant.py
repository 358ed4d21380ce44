"""A whole deployment in one event loop: the real code of all five services over the bus in memory.

In place of what costs seconds: the training processes (`tests.chaos.ranks`), the model under test, the plots.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog

from services.gatekeeper.handlers import HANDLERS
from services.gatekeeper.keeper import Keeper
from services.inference import main as inference
from services.inference import trial
from services.monitor import main as monitor
from services.reporter import main as reporter
from services.reporter import reports
from services.trainer import crew, host_memory
from services.trainer import main as trainer
from shared.bundle import Bundle, write_atomic
from shared.bus.memory import Broker, MemoryBus
from shared.bus.protocol import Bus, Recorded
from shared.events import EvaluateInference, InferenceDone, RunFinished, RunSpec, StartRun
from shared.service import App, serve
from shared.settings import Settings
from tests.chaos.death import Fate, MortalBus, Process, Server
from tests.chaos.ranks import Floor, NoStrangers, Ranks
from tests.unit.gatekeeper.promises import FLOORS
from tests.unit.gatekeeper.story import configuration, inference_done

RUN = "20260101_000000"
BACKOFF_SEC = 0.3
AWAY_SEC = 10.0
"""Before one of two is started again: the other takes over."""
PATIENCE_SEC = 900.0
"""Of the loop's own time, within which a run has to end."""
CHUNKS = {"video_tokenizer": 4, "latent_actions": 4, "dynamics": 4}
REPORTS = ["loop", "retrospective", "inference"]
TINY = {"frame_size": 8, "patch_size": 4, "embed_dim": 8, "num_heads": 1, "hidden_dim": 8, "num_blocks": 1}
STAGE = {
    "batch_size_per_gpu": 8, "learning_rate": 1e-3, "log_interval": 2, "n_updates": 4,
    **{key: TINY[key] for key in ("embed_dim", "num_heads", "hidden_dim", "num_blocks")},
}  # fmt: skip


def specification(bundle: Path) -> RunSpec:
    """Five chunks and a test: the first gate fails, the second chunk begins with moving checkpoints away."""
    plain = configuration(
        training={
            "nproc_per_node": 1,
            "device": "cpu",
            "wandb": "disabled",
            "frame_size": 8,
            "patch_size": 4,
        },
        video_tokenizer=STAGE | {"n_updates": 8},
        latent_actions=STAGE,
        dynamics=STAGE,
    )
    gatekeeper = {
        "chunk": CHUNKS,
        "min_batch_size": FLOORS,
        "ladders": {stage: {"log_interval_floor": 2} for stage in CHUNKS},
        "required_reports": REPORTS,
        "visual": {"binds": []},
        "detectors": {"throughput": {"enabled": False}},  # it goes by the world's clock
    }
    return RunSpec(
        bundle=str(bundle),
        run_name="2026_01_01_00_00_00_pong",
        profile="test",
        configuration=plain,
        policy={"gatekeeper": gatekeeper, "trainer": {"min_free_disk_mb": 0}},
        origins={},
        stages=["video_tokenizer", "latent_actions", "dynamics"],
    )


class Plant:
    """One deployment and one run.

    Args:
        directory: Everything lies there.
        fate: Where processes die.
        broker: The server's part.
        twice: Services of which there are two.
        server: When the server is away; none is always there.
        damage: Draws what breaks of the newest checkpoint when a rank dies; none breaks nothing.
    """

    def __init__(
        self,
        directory: Path,
        fate: Fate,
        *,
        broker: Broker | None = None,
        twice: tuple[str, ...] = (),
        damage: random.Random | None = None,
        server: Server | None = None,
    ) -> None:
        self.directory, self.fate, self.twice = directory, fate, twice
        self.broker = broker if broker is not None else Broker()
        self.floor = Floor(fate, damage)
        self.spec = specification(directory / RUN)
        self.bundle = Bundle(directory / RUN, self.spec.run_name)
        self.bus = MemoryBus("cli", broker=self.broker)
        self.processes: dict[str, Process] = {}
        self.server = server if server is not None else Server()

    async def run(self) -> list[Recorded]:
        """Start a run, and wait until it is over and everybody has read of it; what the log says then."""
        self.bundle.root.mkdir(parents=True)
        async with self.serving():
            await self.bus.publish(StartRun(run_id=RUN, request_id="one", spec=self.spec))
            async with asyncio.timeout(PATIENCE_SEC):
                while not self.over() or any(self.broker.queues.values()):  # noqa: ASYNC110
                    await asyncio.sleep(0.5)
        return await self.bus.events(RUN)

    def over(self) -> bool:
        """Whether the run has ended."""
        subject = f"worldloop.{RUN}.event.{RunFinished.name}"
        return bool(self.broker.log) and any(each.subject == subject for _, each in self.broker.log)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """All services, each started again when it dies."""
        Ranks.floor = self.floor
        with ExitStack() as stack:
            for target, name, value in (
                (crew, "Group", Ranks),
                (crew, "Guard", NoStrangers),
                (host_memory, "oom_kills", lambda: 0),
                (trial, "run_trial", run_trial),
                (reporter, "open_page", lambda *_: None),
                (reports, "draw_losses", draw),
                (reports, "draw_actions", draw),
                (reports, "draw_frames", draw),
            ):
                stack.enter_context(patch.object(target, name, value))
            names = [*BOOTSTRAPS, *self.twice]
            keepers = [asyncio.create_task(self._keep(name, number)) for number, name in enumerate(names)]
            try:
                yield
            finally:
                for process in self.processes.values():
                    process.kill()
                for keeper in keepers:
                    keeper.cancel()
                await asyncio.gather(*keepers, return_exceptions=True)
                await asyncio.sleep(1)

    async def _keep(self, name: str, number: int) -> None:
        """The supervisor's part."""
        key = f"{name} {number}"
        settings = Settings(
            state_dir=self.directory / f"state_{number}",
            cache_dir=self.directory / "cache",
            notify_file=self.directory / "notify.yaml",
        )
        while True:
            process = self.processes[key] = Process(name, self.fate)
            bus = MortalBus(process, name, self.broker, self.server)
            life = process.start(_live(BOOTSTRAPS[name], bus, settings))
            over = asyncio.create_task(process.over.wait())
            await asyncio.wait({life, over}, return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            if life.done() and not process.over.is_set() and not life.cancelled():
                structlog.get_logger().error("ended by itself", name=name, error=repr(life.exception()))
                self.fate.died[name] += 1
            process.kill()
            await asyncio.sleep(AWAY_SEC if name in self.twice else BACKOFF_SEC)


async def _live(
    bootstrap: Callable[[Bus, Settings], Awaitable[App[Any]]], bus: Bus, settings: Settings
) -> None:
    await serve(await bootstrap(bus, settings), bus, settings)


async def _gatekeeper(bus: Bus, settings: Settings) -> App[Keeper]:
    """As its own `bootstrap`, on the loop's clock."""
    keeper = Keeper(bus, asyncio.get_running_loop().time)
    return App("gatekeeper", keeper, HANDLERS, background=[keeper.follow, keeper.listen, keeper.work])


BOOTSTRAPS: dict[str, Callable[[Bus, Settings], Awaitable[App[Any]]]] = {
    "gatekeeper": _gatekeeper,
    "trainer": trainer.bootstrap,
    "monitor": monitor.bootstrap,
    "inference": inference.bootstrap,
    "reporter": reporter.bootstrap,
}


def run_trial(
    command: EvaluateInference, spec: RunSpec, bundle: Bundle, *, now: datetime, **_: Any
) -> InferenceDone:
    """In place of the model under test: a picture, and numbers that pass."""
    done = inference_done(command, {})
    assert done.picture is not None
    write_atomic(bundle.root / done.picture, json.dumps({"at": now.isoformat()}))
    return done


def draw(path: Path, **_: Any) -> list[str]:
    """In place of a plot: a file."""
    write_atomic(path, "a plot")
    return []
