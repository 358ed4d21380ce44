"""Starts the gatekeeper: `python -m services.gatekeeper.main`."""

from __future__ import annotations

import time

from services.gatekeeper.handlers import HANDLERS
from services.gatekeeper.keeper import Keeper
from shared.bus.protocol import Bus
from shared.service import App, run
from shared.settings import Settings


async def bootstrap(bus: Bus, settings: Settings) -> App[Keeper]:  # noqa: ARG001 - it has no files
    """Wire the gatekeeper: all it knows comes from the log."""
    keeper = Keeper(bus, time.monotonic)
    return App(
        service="gatekeeper",
        deps=keeper,
        handlers=HANDLERS,
        background=[keeper.follow, keeper.listen, keeper.work],
    )


def main() -> None:
    """Entry point."""
    run("gatekeeper", bootstrap)


if __name__ == "__main__":
    main()
