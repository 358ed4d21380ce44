"""Runs the trainer: `python -m services.trainer.main [--node-rank N]`."""

from __future__ import annotations

import argparse
import shutil
from typing import Any

from services.trainer.alone import alone
from services.trainer.core.ledger import Ledger
from services.trainer.handlers import HANDLERS, ON_NODES
from services.trainer.launcher import scratch_of
from services.trainer.node import Node
from services.trainer.trainer import Trainer
from services.trainer.turn import Turn
from shared.bus.protocol import Bus
from shared.service import App, Jobs, run
from shared.settings import Settings


async def bootstrap(bus: Bus, settings: Settings) -> App[Any]:
    """Wire the service in its turn; a chunk that an earlier trainer left is taken up once it serves."""
    shutil.rmtree(scratch_of(settings), ignore_errors=True)  # of groups whose trainer was killed
    jobs, turn = Jobs(bus), Turn(bus, settings)
    if rank := settings.node_rank:
        await turn.take()
        node = Node(bus, settings, jobs)
        return App("trainer", node, ON_NODES, background=[node.watch, turn.keep], jobs=jobs, node_rank=rank)
    ledger = Ledger()
    await _read(bus, ledger)
    await turn.take()
    await _read(bus, ledger)  # what came meanwhile; all of it would take time in which no heartbeat is sent
    trainer = Trainer(bus, settings, ledger.complete(), jobs)
    return App("trainer", trainer, HANDLERS, background=[trainer.watch, turn.keep], jobs=jobs)


async def _read(bus: Bus, ledger: Ledger) -> None:
    async for record in bus.past(after=ledger.read):
        ledger.take(record)


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
