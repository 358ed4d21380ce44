"""Runs the trainer: `python -m services.trainer.main [--node-rank N]`."""

from __future__ import annotations

import argparse
import shutil
from typing import Any

from services.trainer.alone import alone
from services.trainer.core.ledger import Ledger
from services.trainer.group import scratch_of
from services.trainer.handlers import HANDLERS, ON_NODES
from services.trainer.node import Node
from services.trainer.trainer import Trainer
from shared.bus.protocol import Bus
from shared.service import App, Jobs, run
from shared.settings import Settings


async def bootstrap(bus: Bus, settings: Settings) -> App[Any]:
    """Wire the service; a chunk that an earlier trainer left is taken up once it serves."""
    shutil.rmtree(scratch_of(settings), ignore_errors=True)  # of groups whose trainer was killed
    jobs = Jobs(bus)
    if rank := settings.node_rank:
        node = Node(bus, settings, jobs)
        return App("trainer", node, ON_NODES, background=[node.watch], jobs=jobs, node_rank=rank)
    ledger = Ledger()
    async for record in bus.past():
        ledger.take(record)
    trainer = Trainer(bus, settings, ledger.complete(), jobs)
    return App("trainer", trainer, HANDLERS, background=[trainer.watch], jobs=jobs)


def main() -> None:
    """Run the service until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m services.trainer.main", description="Runs a trainer.")
    settings = Settings()
    parser.add_argument(
        "--node-rank",
        type=int,
        default=settings.node_rank,
        help="which host of a chunk that spans several this is, from 0 (WORLDLOOP_NODE_RANK)",
    )
    given = parser.parse_args()
    if given.node_rank < 0:
        parser.error(f"--node-rank {given.node_rank}: expected 0 or more")
    settings = settings.model_copy(update={"node_rank": given.node_rank})
    with alone(settings):
        run("trainer", bootstrap, settings)


if __name__ == "__main__":
    main()
