"""Where each launch of an attempt writes its output; the next one's tells ranks that they were replaced."""

from __future__ import annotations

from pathlib import Path

from services.trainer.wire import Run
from shared.bundle import Bundle
from shared.events import ChunkPlan


def output_file(bundle: Bundle, plan: ChunkPlan, launch: int, node_rank: int = 0) -> Path:
    """What launcher and ranks of a host write to."""
    host = f"_node_{node_rank}" if node_rank else ""
    return bundle.logs / "training" / f"{plan.stage}_attempt_{plan.attempt:04d}_launch_{launch}{host}.log"


def is_replaced(bundle: Bundle, run: Run) -> bool:
    """Whether its attempt was launched again, by another trainer since its own would have ended it before."""
    return output_file(bundle, run.plan, run.launch + 1).exists()
