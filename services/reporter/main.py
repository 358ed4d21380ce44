"""Starts the reporter: `python -m services.reporter.main`."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from services.reporter.handlers import HANDLERS, Deps
from services.reporter.notify import Teller
from services.reporter.page.server import open_page
from shared.bus.protocol import Bus
from shared.service import App, Runs, run
from shared.settings import Settings


async def bootstrap(bus: Bus, settings: Settings) -> App[Deps]:
    """Wire the reporter."""
    # matplotlib would make a directory of its own under the user's configuration
    os.environ.setdefault("MPLCONFIGDIR", str(settings.cache_dir / "matplotlib"))
    tempfile.tempdir = str(_scratch(settings))
    runs = Runs(bus, settings)
    page = open_page(bus, runs, settings)
    teller = Teller(bus, runs, settings.notify_file, lambda: page.url if page is not None else None)
    background = [teller.watch, *([page.run] if page is not None else [])]
    return App(service="reporter", deps=Deps(bus, runs), handlers=HANDLERS, background=background)


def _scratch(settings: Settings) -> Path:
    """Where temporary files go, empty: what a reporter that was killed left there is removed."""
    scratch = settings.state_dir / "reporter"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch


def main() -> None:
    """Entry point."""
    run("reporter", bootstrap)


if __name__ == "__main__":
    main()
