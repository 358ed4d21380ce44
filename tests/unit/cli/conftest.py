"""A run's story on an in-memory bus, a small recording, and the CLI on that bus."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from services import cli
from services.commands import connection
from services.commands.configuration.resolve import resolve
from shared.bus.memory import Broker, MemoryBus
from shared.bus.protocol import Bus
from shared.errors import WorldloopError
from shared.events import (
    ChunkDone,
    ChunkPlan,
    ChunkStarted,
    Event,
    GateDecided,
    Reason,
    RunFinished,
    RunSpec,
    RunStarted,
    Schedule,
    StageStarted,
)

RUN = "20260102_030405"
SHIPPED = Path(__file__).parents[3] / "configs"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a directory of its own, with a state directory of its own and no server."""
    for name in ("WORLDLOOP_OUTPUT_ROOT", "WORLDLOOP_NATS_URL", "RUN_BUNDLE_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLDLOOP_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("WORLDLOOP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WORLDLOOP_NOTIFY_FILE", str(tmp_path / "notify.yaml"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def dataset(place: Path) -> Path:
    path = place / "pong_frames.h5"
    with h5py.File(path, "w") as file:
        file["frames"] = np.zeros((60, 64, 64, 3), np.uint8)
    return path


@pytest.fixture
def spec(place: Path) -> RunSpec:
    resolution = resolve(SHIPPED, "demo")
    return RunSpec(
        bundle=str(place / "runs" / RUN),
        run_name="2026_01_02_03_04_05_pong",
        profile="demo",
        configuration=resolution.run.model_dump(mode="json"),
        policy=resolution.policy.model_dump(mode="json"),
        origins=resolution.origins,
        stages=["video_tokenizer"],
        inference=False,
    )


@pytest.fixture
def story(spec: RunSpec) -> list[Event]:
    """A run of one stage and one gate, which retunes, then fails."""
    plan = ChunkPlan(
        stage="video_tokenizer",
        attempt=1,
        start_step=0,
        target_step=300,
        schedule=Schedule(peak=3e-3, start_step=0, end_step=900),
        parameters={},
    )
    return [
        RunStarted(run_id=RUN, spec=spec),
        StageStarted(run_id=RUN, stage="video_tokenizer", start_step=0, target_step=900, resume_from=None),
        ChunkStarted(
            run_id=RUN,
            stage="video_tokenizer",
            attempt=1,
            plan=plan,
            launcher_pid=4711,
            host="here",
            device="cpu",
            world_size=2,
        ),
        ChunkDone(
            run_id=RUN,
            stage="video_tokenizer",
            attempt=1,
            reason="completed",
            start_step=0,
            end_step=300,
            target_step=300,
            launch=1,
            launcher_pid=4711,
            device="cpu",
            world_size=2,
            checkpoints=[],
            seconds=61.0,
        ),
        GateDecided(
            run_id=RUN,
            stage="video_tokenizer",
            attempt=1,
            gate_step=300,
            target_step=900,
            decision="retune",
            verdict="retune",
            reason="gate_fail",
            reasons=[
                Reason(
                    check=6, name="final", value=0.5, threshold=0.02, ok=False, text="final loss 0.5 is high"
                )
            ],
            metrics={},
            resume_from=None,
            resume_step=0,
            config_patch_applied={"learning_rate": 0.0015},
            effective_batch=8,
            launcher_pid=4711,
            dual_gpu_ok=None,
            evidence_paths=[],
            retries_used=1,
            retries_max=5,
            restarts_used=0,
        ),
        RunFinished(run_id=RUN, status="failed", degraded=False, reason="out of budget"),
    ]


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def server(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Broker:
    """The in-memory broker takes the server's place."""

    @contextlib.asynccontextmanager
    async def connect(_: str | None) -> AsyncIterator[Bus]:
        yield MemoryBus(broker=broker)

    monkeypatch.setattr(connection, "connect", connect)
    monkeypatch.setattr(connection, "connect_if_up", connect)
    monkeypatch.setattr(connection, "start_stack_if_needed", lambda _: None)
    return broker


Invoke = Callable[..., Result]


@pytest.fixture
def worldloop(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """The command line, with `main`'s treatment of our errors: exit code, and the text on stderr."""

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(cli.app, list(arguments))
        if isinstance(result.exception, WorldloopError):
            return result
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke
