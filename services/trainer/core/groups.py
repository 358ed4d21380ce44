"""Which plans one process group can run, one after another."""

from __future__ import annotations

from shared.config import KNOBS, StageConfig
from shared.events import ChunkPlan, Document, RunId

FREE = {*KNOBS, "n_updates", "checkpoint", "output_root"}
"""Parameters that a running group can change, or does not use."""


def requirements(run_id: RunId, plan: ChunkPlan) -> Document:
    """What a process group is built on: plans with equal requirements can share it.

    Dataset, architecture, device and world size are loaded or built at launch; learning rate, accumulation,
    batch size and log interval are read anew from every plan.
    """
    config = StageConfig.recorded(plan.parameters)
    fixed: Document = config.model_dump(mode="json", exclude=FREE)
    upstream: Document = {str(stage): path for stage, path in plan.upstream.items()}
    return {"run_id": run_id, "stage": plan.stage, "upstream": upstream, "parameters": fixed}
