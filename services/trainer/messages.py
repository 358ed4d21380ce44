"""The trainer's messages, put together from what it knows."""

from __future__ import annotations

import socket
import time

from services.trainer.chunk import Chunk, Outcome
from services.trainer.core import ends
from services.trainer.core.launch import device
from services.trainer.crew import AnyGroup
from services.trainer.wire import Progress
from shared.events import CheckpointInfo, ChunkDone, ChunkStarted, TrainProgress
from shared.sheets import newest_sheet


def started(chunk: Chunk, group: AnyGroup, step: int, *, warm: bool) -> ChunkStarted:
    """A group has the plan, and goes on from `step` updates done."""
    return ChunkStarted(
        run_id=chunk.run_id,
        stage=chunk.plan.stage,
        attempt=chunk.plan.attempt,
        plan=chunk.plan,
        launch=chunk.launches,
        resume_step=step,
        recount=chunk.recount,
        launcher_pid=group.pid,
        host=socket.gethostname(),
        warm=warm,
        device=group.device,
        world_size=group.world_size,
    )


def progress(chunk: Chunk, report: Progress) -> TrainProgress:
    """Where the chunk is; the time left is to the stage's target."""
    config, stage_target = chunk.config, chunk.plan.schedule.end_step
    windows = config.windows_per_update(chunk.ranks)
    frames_left = (stage_target - report.step) * windows * config.context_length
    return TrainProgress(
        run_id=chunk.run_id,
        stage=chunk.plan.stage,
        attempt=chunk.plan.attempt,
        step=report.step,
        target_step=chunk.plan.target_step,
        stage_target=stage_target,
        loss=report.loss,
        learning_rate=report.learning_rate,
        frames_per_sec=report.frames_per_sec,
        eta_sec=frames_left / report.frames_per_sec if report.frames_per_sec else 0.0,
    )


def done(chunk: Chunk, outcome: Outcome, checkpoints: list[CheckpointInfo]) -> ChunkDone:
    """The chunk is over."""
    plan, bundle, finished = chunk.plan, chunk.bundle, outcome.finished
    sheet = newest_sheet(bundle.visualizations(plan.stage))
    history = bundle.history(plan.stage, plan.attempt)
    return ChunkDone(
        run_id=chunk.run_id,
        stage=plan.stage,
        attempt=plan.attempt,
        reason=outcome.reason,
        exit_code=outcome.exit_code,
        start_step=plan.start_step,
        end_step=outcome.end_step,
        target_step=plan.target_step,
        launch=max(chunk.launches, 1),
        launcher_pid=chunk.launcher_pid,
        device=device(chunk.config),
        world_size=chunk.ranks,
        checkpoints=checkpoints,
        visualization=bundle.relative(sheet) if sheet else None,
        history=bundle.relative(history) if history.exists() else None,
        wandb_run_id=finished.wandb_run_id if finished else None,
        wandb_dir=finished.wandb_dir if finished else None,
        seconds=time.time() - chunk.since,
        cpu_seconds=finished.cpu_seconds if finished else [],
        timing=finished.timing if finished else {},
        stderr_tail=ends.tail(outcome.stderr),
    )
