"""Trains one chunk: from the step a plan goes on from to its target."""

from __future__ import annotations

import math
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch.nn.utils import clip_grad_norm_

from services.trainer.outputs import is_replaced
from services.trainer.wire import Finished, Progress, Run, Saved
from services.trainer.worker.history import History
from services.trainer.worker.link import Link
from services.trainer.worker.ranks import local_gradients
from services.trainer.worker.session import Session
from services.trainer.worker.tracking import Tracking
from shared.config import StageConfig
from shared.worldmodel.optim import GRADIENT_CLIP, learning_rate
from shared.worldmodel.transformer import TrainOutput

PROGRESS_SEC = 0.2
LOSS, RATE, NORM = "train/loss", "learning_rate/group_0", "grad_norm"

End = Literal["completed", "non_finite", "stopped"]


@dataclass(slots=True)
class Desk:
    """What rank 0 has besides its share of the training."""

    link: Link
    history: History
    tracking: Tracking
    last_progress: float = 0.0
    frames: int = 0
    """Frames trained on since the last progress."""

    def row(self, update: int, values: dict[str, float]) -> None:
        """Record an update."""
        self.history.add(update, values)
        self.tracking.add(update, values)

    def progress(self, step: int, values: dict[str, float], frames: int, *, at_end: bool) -> None:
        """Say where the chunk is, at its end or when it was not said just now."""
        now = time.monotonic()
        self.frames += frames
        if now - self.last_progress < PROGRESS_SEC and not at_end:
            return
        rate = self.frames / (now - self.last_progress) if self.last_progress else 0.0
        self.last_progress, self.frames = now, 0
        self.history.show()
        loss = values[LOSS] if math.isfinite(values[LOSS]) else None
        self.link.send(Progress(step=step, loss=loss, learning_rate=values[RATE], frames_per_sec=rate))


@dataclass(slots=True)
class Chunk:
    """One plan in work on one rank. All ranks go through the same steps and end at the same one."""

    session: Session
    run: Run
    desk: Desk | None
    """Rank 0's."""
    config: StageConfig = field(init=False)
    timing: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.config = StageConfig.recorded(self.run.plan.parameters)

    def train(self) -> tuple[End, int]:
        """Go on to the target.

        Returns:
            How it ended, and the updates done then.
        """
        plan = self.run.plan
        self.session.restore(self.run, self.config)
        self.session.task.model.train()
        for update in range(self.run.resume_step, plan.target_step):
            self.timing.setdefault("first_update_begin", time.time())
            healthy, stop = self._update(update)
            done = update + 1
            if not healthy:
                return "non_finite", update
            at_end = stop or done == plan.target_step
            if at_end:
                self.timing["last_update_end"] = time.time()
            if (at_end or done % self.config.log_interval == 0) and not self._keep(done):
                return "non_finite", done
            if stop:
                return ("stopped" if done < plan.target_step else "completed"), done
        return "completed", plan.target_step

    def _update(self, update: int) -> tuple[bool, bool]:
        """One optimizer step.

        Returns:
            Whether loss and gradient were numbers (else the step is not taken), and whether to stop.
        """
        session, ranks = self.session, self.session.ranks
        measured = self._gradients(update)
        norm = clip_grad_norm_(session.task.model.parameters(), GRADIENT_CLIP)
        asked = self.desk is not None and self.desk.link.stop_asked
        local = torch.stack([norm, *(value.float() for value in measured.values())]).tolist()
        *totals, stops = ranks.sum([*local, float(asked)])
        norm_mean, *means = (total / ranks.size for total in totals)
        rate = learning_rate(self.run.plan.schedule, update)
        values = {**dict(zip(measured, means, strict=True)), RATE: rate, NORM: norm_mean}
        healthy = math.isfinite(values[LOSS]) and math.isfinite(norm_mean)
        if healthy:
            session.changed()
            for group in session.optimizer.param_groups:
                group["lr"] = rate
            session.optimizer.step()
        session.optimizer.zero_grad()
        self._record(update, values)
        return healthy, stops > 0

    def _gradients(self, update: int) -> dict[str, torch.Tensor]:
        """Forward and backward of all micro-batches: leaves the gradient of their mean over all ranks.

        Returns:
            This rank's means over the micro-batches, scalars by history column, the loss first.
        """
        session, number = self.session, self.config.gradient_accumulation_steps
        sums: dict[str, torch.Tensor] = {}
        for micro in range(number):
            inputs = session.inputs(self.config, update, micro)
            with nullcontext() if micro == number - 1 else local_gradients(session.model):
                with torch.autocast(session.ranks.device.type, torch.bfloat16, enabled=self.config.amp):
                    output: TrainOutput = session.model(*inputs.positional, **inputs.named)
                (output.loss / number).backward()  # type: ignore[no-untyped-call]
            for name, value in {LOSS: output.loss.detach(), **output.metrics}.items():
                sums[name] = sums[name] + value if name in sums else value
        return {name: value / number for name, value in sums.items()}

    def _record(self, update: int, values: dict[str, float]) -> None:
        if self.desk is not None:
            self.desk.row(update, values)
            config, done = self.config, update + 1
            windows = config.windows_per_update(self.session.ranks.size)
            at_end = done == self.run.plan.target_step
            self.desk.progress(done, values, windows * config.context_length, at_end=at_end)

    def _keep(self, step: int) -> bool:
        """Write history, sheet and checkpoint, in this order; nothing more once others train this attempt.

        Returns:
            False, with nothing written but the history, when the weights are no numbers.
        """
        if self.desk is not None:
            if is_replaced(self.session.bundle, self.run):
                threading.Event().wait()  # until the trainer hears of it, too, and ends
            self.desk.history.flush()
        if not self.session.finite():
            return False
        begun = time.perf_counter()
        if self.desk is not None:
            self.session.picture(step)
        drawn = time.perf_counter()
        path = self.session.save(self.run, self.config, step)
        self.timing["visualization"], self.timing["checkpoint"] = drawn - begun, time.perf_counter() - drawn
        if self.desk is not None:
            self.desk.link.send(Saved(path=path, step=step))
        return True


def finished(chunk: Chunk, end: End, step: int, cpu_seconds: list[float], tracking: Tracking) -> Finished:
    """The report of a chunk that is over; no problem is reported twice by one group."""
    directory, session = tracking.directory, chunk.session
    problems = [each for each in (*session.problems, *tracking.problems) if each not in session.told]
    session.told.update(problems)
    return Finished(
        reason=end,
        end_step=step,
        cpu_seconds=cpu_seconds,
        timing=chunk.timing,
        wandb_run_id=tracking.run_id,
        wandb_dir=session.bundle.relative(directory) if directory else None,
        problems=problems,
    )
