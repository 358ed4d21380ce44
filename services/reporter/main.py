"""Starts the reporter: `python -m services.reporter.main`."""

from __future__ import annotations

import os

from services.reporter.handlers import HANDLERS, Deps
from shared.bus.protocol import Bus
from shared.service import App, Runs, run
from shared.settings import Settings


async def bootstrap(bus: Bus, settings: Settings) -> App[Deps]:
    """Wire the reporter."""
    # matplotlib would make a directory of its own under the user's configuration
    os.environ.setdefault("MPLCONFIGDIR", str(settings.cache_dir / "matplotlib"))
    return App(service="reporter", deps=Deps(bus, Runs(bus, settings)), handlers=HANDLERS)


def main() -> None:
    """Entry point."""
    run("reporter", bootstrap)


if __name__ == "__main__":
    main()
