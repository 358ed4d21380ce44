"""The monitor's live alert: checkpoints that are empty, or too old, while the process lives."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.monitor.core.checkpoints import EMPTY, STALE, Look, trouble_alerts, troubles
from services.monitor.core.chunks import Chunk, Chunks
from services.monitor.files import WRITING_SEC, look_at_checkpoints
from services.monitor.watch import Deps, check_freshness
from shared.bundle import Bundle
from shared.bus.memory import MemoryBus
from shared.config import StageConfig
from shared.events import AlertRaised, ChunkStarted, RunStarted
from shared.service import Runs
from shared.settings import Settings
from tests.messages import run_spec

RUN, NAME = "20260101_000000", "2026_01_01_00_00_00_pong"
Start = Callable[..., ChunkStarted]


def looks(good: int, empty: int, *, every: int = 10) -> list[Look]:
    """So many good checkpoints, then so many empty ones."""
    return [
        Look(
            f"dynamics_step_{step}", step * every, None if step <= good else "model is missing", step <= good
        )
        for step in range(1, good + empty + 1)
    ]


@pytest.mark.parametrize(
    ("good", "empty", "alarm"),
    [
        (0, 2, False),
        (0, 3, True),
        (1, 2, False),
        (12, 3, True),
        (13, 3, False),
        (16, 4, True),
        (17, 4, False),
    ],
)
def test_a_fifth_and_at_least_three_of_the_checkpoints_empty_is_trouble(
    good: int, empty: int, alarm: bool
) -> None:
    found = troubles(looks(good, empty), start=0, step=0, interval=10)
    assert (EMPTY in found) == alarm
    if alarm:
        assert f"{empty} of {good + empty}" in found[EMPTY]
        assert f"dynamics_step_{good + empty}: model is missing" in found[EMPTY]


@pytest.mark.parametrize(
    ("good", "start", "step", "alarm"),
    [
        (0, 0, 30, False),
        (0, 0, 31, True),
        (2, 0, 50, False),
        (2, 0, 51, True),
        (2, 40, 70, False),
        (2, 40, 71, True),
    ],
)
def test_no_whole_checkpoint_for_more_than_three_log_intervals_is_trouble(
    good: int, start: int, step: int, alarm: bool
) -> None:
    found = troubles(looks(good, 1), start=start, step=step, interval=10)
    assert (STALE in found) == alarm
    if alarm:
        assert f"at step {step}, more than 3 log intervals of 10" in found[STALE]


def test_trouble_is_one_alert_until_it_is_over_and_has_come_again(started: Start) -> None:
    chunks = Chunks()
    chunks.fold(started(), 100)
    (chunk,) = chunks.running()
    (alert,) = trouble_alerts(chunk, {EMPTY: "three are empty"})
    assert (alert.channel, alert.detail, alert.ordinal) == (EMPTY, "three are empty", 1)
    chunks.fold(alert, 110)
    assert trouble_alerts(chunk, {EMPTY: "four are empty"}) == []
    assert [each.channel for each in trouble_alerts(chunk, {EMPTY: "x", STALE: "y"})] == [STALE]
    assert trouble_alerts(chunk, {}) == []
    (again,) = trouble_alerts(chunk, {EMPTY: "three are empty"})
    assert again.ordinal == 2


def write(directory: Path, *, model: int = 4096, age: float = 100, now: float = 1e9) -> Path:
    """A checkpoint of files with sizes, last changed some seconds ago."""
    directory.mkdir(parents=True)
    for name, size in (("model_state_dict.pt", model), ("optim_state_dict.pt", 4096), ("state.pt", 9)):
        (directory / name).write_bytes(bytes(size))
        os.utime(directory / name, (now - age, now - age))
    os.utime(directory, (now - age, now - age))
    return directory


def test_a_checkpoint_that_is_being_written_is_not_counted(tmp_path: Path) -> None:
    write(tmp_path / "dynamics_step_9")
    write(tmp_path / "dynamics_step_19", model=1024)
    (write(tmp_path / "dynamics_step_29") / "state.pt").unlink()
    os.utime(tmp_path / "dynamics_step_29", (1e9 - 100, 1e9 - 100))
    write(tmp_path / "dynamics_step_39", model=0, age=WRITING_SEC - 1)
    found = look_at_checkpoints(tmp_path, 1e9)
    assert [(each.step, each.empty, each.whole) for each in found] == [
        (10, None, True),
        (20, "model_state_dict.pt has only 1024 bytes", False),
        (30, None, False),
    ]
    assert look_at_checkpoints(tmp_path / "nowhere", 1e9) == []


def test_whole_checkpoints_count_however_young_they_are(tmp_path: Path) -> None:
    """A small model writes several within the time that a large one takes for one."""
    for step in (9, 19, 29):
        write(tmp_path / f"dynamics_step_{step}", age=1)
    (write(tmp_path / "dynamics_step_39", age=1) / "state.pt").unlink()
    found = look_at_checkpoints(tmp_path, 1e9)
    assert [(each.step, each.whole) for each in found] == [(10, True), (20, True), (30, True)]
    assert troubles(found, start=0, step=60, interval=10) == {}


@pytest.fixture
async def watching(tmp_path: Path, started: Start) -> tuple[Deps, Bundle, Chunk]:
    """A monitor with a running chunk, started at 1e9, of a run in a bundle."""
    bundle, bus = Bundle(tmp_path / RUN, NAME), MemoryBus("gatekeeper")
    await bus.publish(RunStarted(run_id=RUN, spec=run_spec(bundle.root)))
    deps: dict[str, Any] = {"gpus": None, "clock": lambda: 1e9, "since": 1e9}
    chunks = Chunks()
    chunks.fold(started(start_step=0), 1e9)
    return Deps(bus=bus, runs=Runs(bus, Settings()), chunks=chunks, **deps), bundle, chunks.running()[0]


async def raised(deps: Deps) -> list[str]:
    """Channels of all alerts after another look."""
    await check_freshness(deps)
    return [r.message.channel for r in await deps.bus.events(RUN) if isinstance(r.message, AlertRaised)]


async def test_empty_checkpoints_of_a_living_process_raise_one_alert(
    watching: tuple[Deps, Bundle, Chunk],
) -> None:
    deps, bundle, _ = watching
    for step in (10, 20):
        write(bundle.checkpoint("dynamics", step), model=0)
    assert await raised(deps) == []
    write(bundle.checkpoint("dynamics", 30), model=0)
    assert await raised(deps) == [EMPTY]
    assert await raised(deps) == [EMPTY]


async def test_a_step_far_beyond_the_newest_checkpoint_raises_one_alert(
    watching: tuple[Deps, Bundle, Chunk],
) -> None:
    deps, bundle, chunk = watching
    interval = StageConfig.model_validate(chunk.first.plan.parameters).log_interval
    write(bundle.checkpoint("dynamics", interval))
    deps.progress[chunk.key] = (4 * interval, 1e9)
    assert await raised(deps) == []
    deps.progress[chunk.key] = (4 * interval + 1, 1e9)
    assert await raised(deps) == [STALE]
    assert await raised(deps) == [STALE]
    write(bundle.checkpoint("dynamics", 4 * interval))
    assert await raised(deps) == [STALE]
    deps.progress[chunk.key] = (7 * interval + 1, 1e9)
    assert await raised(deps) == [STALE, STALE]
