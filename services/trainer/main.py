"""Runs the trainer: `python -m services.trainer.main`."""

from __future__ import annotations

import shutil

from services.trainer.core.ledger import fold
from services.trainer.group import scratch_of
from services.trainer.handlers import HANDLERS
from services.trainer.trainer import Trainer
from shared.bus.protocol import Bus
from shared.service import App, Jobs, run
from shared.settings import Settings


async def bootstrap(bus: Bus, settings: Settings) -> App[Trainer]:
    """Wire the service; a chunk that an earlier trainer left is taken up once it serves."""
    shutil.rmtree(scratch_of(settings), ignore_errors=True)  # of groups whose trainer was killed
    jobs = Jobs(bus)
    trainer = Trainer(bus, settings, fold(await bus.events()), jobs)
    return App("trainer", trainer, HANDLERS, background=[trainer.watch], jobs=jobs)


def main() -> None:
    """Run the service until it is told to stop."""
    run("trainer", bootstrap)


if __name__ == "__main__":
    main()
