"""Starts the inference service: `python -m services.inference.main`."""

from __future__ import annotations

from datetime import UTC, datetime

from services.inference.handlers import HANDLERS, Deps
from shared.bus.protocol import Bus
from shared.service import App, Runs, run
from shared.settings import Settings


async def bootstrap(bus: Bus, settings: Settings) -> App[Deps]:
    """Wire the inference service."""
    deps = Deps(
        bus=bus,
        runs=Runs(bus, settings),
        cache_dir=settings.cache_dir,
        now=lambda: datetime.now(UTC),
        data_dir=settings.data_dir,
    )
    return App(service="inference", deps=deps, handlers=HANDLERS)


def main() -> None:
    """Entry point."""
    run("inference", bootstrap)


if __name__ == "__main__":
    main()
