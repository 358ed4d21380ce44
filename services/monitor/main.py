"""Starts the monitor: `python -m services.monitor.main`."""

from __future__ import annotations

import time

import structlog

from services.monitor.core.chunks import Chunks
from services.monitor.gpus import Nvml
from services.monitor.handlers import HANDLERS
from services.monitor.letters import watch_dead_letters
from services.monitor.watch import Deps, watch_freshness, watch_gpus, watch_progress
from shared.bus.protocol import Bus
from shared.service import App, Runs, run
from shared.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def bootstrap(bus: Bus, settings: Settings) -> App[Deps]:
    """Wire the monitor: its table of chunks comes from the log, so a restart forgets nothing."""
    gpus = Nvml()
    if gpus.problem is not None:
        log.info("no GPUs to read", problem=gpus.problem)
    chunks = Chunks()
    async for record in bus.past():
        chunks.take(record)
    deps = Deps(
        bus=bus,
        runs=Runs(bus, settings),
        chunks=chunks,
        gpus=gpus,
        clock=time.time,
        since=time.time(),
    )
    return App(
        service="monitor",
        deps=deps,
        handlers=HANDLERS,
        background=[
            lambda: watch_gpus(deps),
            lambda: watch_progress(deps),
            lambda: watch_freshness(deps),
            lambda: watch_dead_letters(deps),
        ],
    )


def main() -> None:
    """Entry point."""
    run("monitor", bootstrap)


if __name__ == "__main__":
    main()
