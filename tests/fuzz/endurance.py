"""Many runs, one after the other, through gatekeeper, monitor and reporter over the bus in memory.

    python -m tests.fuzz.endurance [--runs 10000] [--readings 100]

What the log would have on its disk is let go after each run, so what grows is what a service keeps of runs
that are over. Exit code 1 if that is more than `MOST_GROWTH` bytes a run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from services.gatekeeper.handlers import HANDLERS as GATEKEEPING
from services.gatekeeper.keeper import Keeper
from services.monitor.core.chunks import Chunks
from services.monitor.handlers import HANDLERS as MONITORING
from services.monitor.letters import watch_dead_letters
from services.monitor.watch import Deps as Watch
from services.monitor.watch import watch_freshness, watch_progress
from services.reporter.handlers import HANDLERS as REPORTING
from services.reporter.handlers import Deps as Desk
from services.reporter.page.board import Board
from shared import logs
from shared.bus.memory import Broker, MemoryBus
from shared.bus.wire import Envelope, encode
from shared.events import GpuSample, Heartbeat, Message, TrainProgress
from shared.service import App, Runs, serve
from shared.settings import Settings
from tests.unit.gatekeeper.story import RUN_ID, Story, only

MOST_GROWTH = 500
"""Bytes a service's memory may grow by with each run that is over: its id, here and there."""
TICK_SEC = 0.01
"""Of the gatekeeper, which lets go of runs then."""
WARM_UP = 0.3
"""Share of the runs after which memory is first looked at: until then caches of a bounded size fill up."""


class NoGpus:
    """A machine without any."""

    problem = "none here"

    def read(self, launcher_pid: int) -> Any:
        raise AssertionError(launcher_pid)


@dataclass
class World:
    """The services, and who plays the runs to them."""

    directory: Path
    broker: Broker = field(default_factory=Broker)

    def __post_init__(self) -> None:
        story = Story(only("video_tokenizer")).play()
        assert story.state.finished is not None
        self._tape = [encode(each.message, source="/worldloop/script", time=each.time) for each in story.log]
        self._played = 0
        buses = {name: MemoryBus(name, broker=self.broker) for name in ("gatekeeper", "monitor", "reporter")}
        settings = Settings(state_dir=self.directory / "state", output_root=self.directory / "runs")
        runs = {name: Runs(bus, settings) for name, bus in buses.items()}
        self.keeper = Keeper(buses["gatekeeper"], time.monotonic, tick_sec=TICK_SEC)
        watch = Watch(buses["monitor"], runs["monitor"], Chunks(), NoGpus(), time.time, time.time())
        self.board = Board(buses["reporter"], runs["reporter"].place)
        keeping = [self.keeper.follow, self.keeper.listen, self.keeper.work]
        watching = [partial(task, watch) for task in (watch_progress, watch_freshness, watch_dead_letters)]
        apps: list[App[Any]] = [
            App("gatekeeper", self.keeper, GATEKEEPING, keeping),
            App("monitor", watch, MONITORING, watching),
            App("reporter", Desk(buses["reporter"], runs["reporter"]), REPORTING, [self.board.task]),
        ]
        self._serving = [serve(app, buses[app.service], settings) for app in apps]

    async def __aenter__(self) -> Self:
        (self.directory / "state").mkdir(parents=True)
        self._tasks = [asyncio.create_task(each) for each in self._serving]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def play(self, readings: int) -> None:
        """One more run, from its start to its end."""
        self._played += 1
        run_id = f"{RUN_ID}_{self._played}"
        (self.directory / "runs" / run_id).mkdir(parents=True)
        for each in self._of(run_id):
            self.broker.put(each)
        for number in range(readings):
            self.broker.put(_reading(run_id, number))
            if number % 100 == 99:
                await asyncio.sleep(0)
        while not self._handled(run_id):
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.001)
        shutil.rmtree(self.directory / "runs" / run_id)
        self.broker.log.clear()
        self.broker.sequences.clear()
        for queue in self.broker.queues.values():
            queue.clear()

    def _of(self, run_id: str) -> list[Envelope]:
        old, new = RUN_ID.encode(), run_id.encode()
        return [
            Envelope(
                each.subject.replace(RUN_ID, run_id),
                each.data.replace(old, new),
                each.headers | {"ce-id": each.headers["ce-id"].replace(RUN_ID, run_id)},
            )
            for each in self._tape
        ]

    def _handled(self, run_id: str) -> bool:
        """Whether every service has done with the run."""
        waiting = any(queue for (_, name), queue in self.broker.queues.items() if name.endswith("-events"))
        state = self.keeper.runs.get(run_id)
        listed = run_id in self.board._listing
        unread = any(listener.qsize() for listener in self.broker.listeners)
        return not waiting and not unread and listed and state is not None and state.finished is not None


def _reading(run_id: str, number: int) -> Envelope:
    kinds: list[Message] = [
        TrainProgress(
            run_id=run_id, stage="video_tokenizer", attempt=1, step=number, target_step=10, stage_target=20,
            loss=0.1, learning_rate=1e-3, frames_per_sec=100.0, eta_sec=1.0,
        ),
        GpuSample(
            run_id=run_id, index=0, utilization=90, memory_bytes=1, memory_total_bytes=2, pids=[1]
        ),
        Heartbeat(run_id=run_id, service="trainer", pid=1, host="played", working_on=[]),
    ]  # fmt: skip
    return encode(kinds[number % len(kinds)], source="/worldloop/script", time=datetime.now(UTC))


async def played(directory: Path, runs: int, readings: int) -> AsyncGenerator[int, None]:
    """Play so many runs; yields how many are over."""
    async with World(directory) as world:
        for number in range(1, runs + 1):
            await world.play(readings)
            yield number


async def _main(directory: Path, runs: int, readings: int) -> int:
    process = psutil.Process(os.getpid())
    first, begin, step = int(runs * WARM_UP), 0, max(1, runs // 20)
    async with contextlib.aclosing(played(directory, runs, readings)) as over:
        async for number in over:
            if number % step == 0:
                print(f"{number} runs: {process.memory_info().rss >> 20} MB", flush=True)
            if number == first:
                begin = process.memory_info().rss
    growth = (process.memory_info().rss - begin) / max(1, runs - first)
    print(f"{growth:.0f} bytes a run, {3 * MOST_GROWTH} at most")
    return int(growth > 3 * MOST_GROWTH)


def main() -> int:
    """Play, and say how memory grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--readings", type=int, default=100, help="telemetry messages of each run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        logs.configure("endurance", Settings(state_dir=Path(directory), log_level="error"))
        return asyncio.run(_main(Path(directory), arguments.runs, arguments.readings))


if __name__ == "__main__":
    sys.exit(main())
