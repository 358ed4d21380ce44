"""A training process group in place of the real one: real checkpoints, sheets and history, made-up updates.

Weights are a number that every update changes and that depends on all updates before it: one update left out,
made twice or begun from the wrong checkpoint shows in all that follow.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.trainer.config import Policy
from services.trainer.core.groups import requirements
from services.trainer.group import Gone
from services.trainer.guard import Swept
from services.trainer.wire import Finished, Progress, Report, Run, Saved
from services.trainer.worker.history import History
from shared.bundle import Bundle, checkpoint_directories
from shared.config import StageConfig
from shared.errors import CheckpointError
from shared.events import Stage
from shared.settings import Settings
from shared.sheets import sheet_path, write_sheet
from shared.worldmodel.build import build_model
from shared.worldmodel.checkpoints import load_checkpoint, save_checkpoint
from shared.worldmodel.optim import make_optimizer
from tests.chaos.death import Died, Fate, Process, _current
from tests.unit.gatekeeper.story import LOSS

UPDATE_SEC = 0.2
PIDS = itertools.count(100_000)
BAD = {("video_tokenizer", 1): 1.0}
"""Stage and attempt -> a loss that fails its gate."""
PICTURE = np.zeros((1, 2, 8, 8, 3), dtype=np.uint8)


@cache
def model_of(stage: Stage, config: StageConfig) -> tuple[Any, Any, str]:
    """A model, an optimizer that has made a step, and the weight that the number is kept in."""
    model = build_model(stage, config)
    optimizer = make_optimizer(model, config)
    for each in model.parameters():
        each.grad = torch.zeros_like(each)
    optimizer.step()
    return model, optimizer, next(name for name, each in model.named_parameters() if each.dim() == 1)


def after(value: float, update: int, rate: float) -> float:
    """The number after one more update."""
    return float(np.float32(value * 0.9 + rate * 100 * (update + 1)))


class Floor:
    """What is known of all training in a world."""

    def __init__(self, fate: Fate, dice: random.Random | None = None) -> None:
        self.fate = fate
        self.trained: list[tuple[str, int, int]] = []
        """Stage, attempt, update: one for each that was made."""
        self.launches: list[tuple[str, int, int, int]] = []
        """Stage, attempt, step it went on from, step of the newest valid checkpoint it could have."""
        self.dice = dice
        """Draws what of the newest checkpoint breaks when a rank dies, once; none breaks nothing."""

    def damage(self, folder: Path, after: int) -> None:
        """Break the newest checkpoint beyond a step, if there is one."""
        newest = [each for step, each in checkpoint_directories(folder) if step > after][-1:]
        if self.dice is not None and newest:
            damage(self.dice.choice(sorted(newest[0].iterdir())), self.dice)
            self.dice, self.fate.died["checkpoint"] = None, 1


class NoStrangers:
    """In place of the guard: there is no other launcher."""

    def __init__(self, stack: Path) -> None:
        self._stack = stack

    async def sweep(self, run_id: str, **given: Any) -> Swept:
        return Swept()


class Ranks:
    """In place of `Group`."""

    floor: Floor

    def __init__(self, run: Run, policy: Policy) -> None:
        self.run_id, self.requirements = run.run_id, requirements(run.run_id, run.plan)
        self.world_size, self.device = 1, "cpu"
        self.policy, self.idle_since, self.pid = policy, time.monotonic(), next(PIDS)
        self._process = Process("rank", self.floor.fate)
        owner = _current.get()
        assert owner is not None
        owner.children.append(self._process)
        self._reports: asyncio.Queue[Report] = asyncio.Queue()
        self._stopped, self._code = False, -9

    @classmethod
    async def launch(cls, run: Run, policy: Policy, settings: Settings, log_file: Path) -> Ranks:
        await asyncio.sleep(UPDATE_SEC)
        return cls(run, policy)

    @property
    def alive(self) -> bool:
        return not self._process.over.is_set()

    @property
    def exit_code(self) -> int | None:
        return None if self.alive else self._code

    def hand(self, run: Run) -> None:
        plan = run.plan
        self._folder = Bundle(Path(run.bundle), run.run_name).checkpoints(plan.stage), plan.start_step
        self._process.start(self._train(run))

    def stop(self) -> None:
        self._stopped = True

    async def finish(
        self, heard: Callable[[Progress | Saved], Awaitable[None]], *, hang_timeout_sec: float
    ) -> Finished | Gone:
        over = asyncio.ensure_future(self._process.over.wait())
        while True:
            getting = asyncio.ensure_future(self._reports.get())
            await asyncio.wait({getting, over}, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                self.floor.damage(*self._folder)
                return Gone(hung=False, exit_code=self.exit_code, stderr="")
            report = getting.result()
            if isinstance(report, Finished):
                over.cancel()
                return report
            assert isinstance(report, Progress | Saved)
            await heard(report)

    async def end(self, exit_grace_sec: float | None = None) -> set[int]:
        self._process.kill()
        return {self.pid}

    def stderr(self) -> str:
        return ""

    async def _train(self, run: Run) -> None:
        plan, bundle = run.plan, Bundle(Path(run.bundle), run.run_name)
        config = StageConfig.model_validate(plan.parameters)
        model, optimizer, name = model_of(plan.stage, _shape(config))
        value = 0.0
        if run.resume_from is not None:
            try:
                found = load_checkpoint(bundle.resolve(run.resume_from))
            except CheckpointError:
                self._code = 1
                self._process.kill()
                return
            assert found.step == run.resume_step, "a checkpoint of another step"
            value = float(found.model[name][0])
        self.floor.launches.append(
            (plan.stage, plan.attempt, run.resume_step, newest(bundle, plan.stage, plan.target_step))
        )
        with History(bundle.history(plan.stage, plan.attempt), run.resume_step) as history:
            for update in range(run.resume_step, plan.target_step):
                await asyncio.sleep(UPDATE_SEC)
                value = after(value, update, config.learning_rate)
                self.floor.trained.append((plan.stage, plan.attempt, update))
                history.add(update, _row(plan.stage, plan.attempt, update, config.learning_rate))
                done = update + 1
                at_end = self._stopped or done == plan.target_step
                self._say(Progress(step=done, loss=1.0, learning_rate=1.0, frames_per_sec=1.0))
                if at_end or done % config.log_interval == 0:
                    history.flush()
                    write_sheet(sheet_path(bundle, plan.stage, done), PICTURE, PICTURE)
                    directory = bundle.checkpoint(plan.stage, done)
                    with torch.no_grad():
                        model.get_parameter(name).fill_(value)
                    save_checkpoint(
                        directory, stage=plan.stage, model=model, optimizer=optimizer, step=done,
                        config=config, schedule=plan.schedule,
                    )  # fmt: skip
                    self._say(Saved(path=bundle.relative(directory), step=done))
                if self._stopped:
                    break
        self._say(
            Finished(
                reason="stopped" if self._stopped and done < plan.target_step else "completed",
                end_step=done, cpu_seconds=[0.1], timing={}, wandb_run_id=None, wandb_dir=None, problems=[],
            )
        )  # fmt: skip

    def _say(self, report: Report) -> None:
        if self._process.over.is_set():
            raise Died
        self._reports.put_nowait(report)


def damage(path: Path, dice: random.Random) -> None:
    """Cut a file off or turn one of its bits, at a random place; now and then its time stays what it was."""
    about, content = path.stat(), bytearray(path.read_bytes())
    at = dice.randrange(len(content))
    if dice.random() < 1 / 3:
        del content[at:]
    else:
        content[at] ^= 1 << dice.randrange(8)
    path.write_bytes(content)
    if dice.random() < 1 / 2:
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def newest(bundle: Bundle, stage: Stage, target: int) -> int:
    """Step of the newest checkpoint that can be loaded, up to a target; 0 for none."""
    for step, directory in reversed(list(checkpoint_directories(bundle.checkpoints(stage)))):
        if step <= target:
            try:
                load_checkpoint(directory)
            except CheckpointError:
                continue
            return step
    return 0


def number(directory: Path) -> float:
    """The number in a checkpoint."""
    found = load_checkpoint(directory)
    name = next(name for name, each in found.model.items() if each.dim() == 1)
    return float(found.model[name][0])


def _shape(config: StageConfig) -> StageConfig:
    """The configuration without what changes from plan to plan: one model for all."""
    return StageConfig(
        frame_size=config.frame_size, patch_size=config.patch_size, embed_dim=config.embed_dim,
        num_heads=config.num_heads, hidden_dim=config.hidden_dim, num_blocks=config.num_blocks,
    )  # fmt: skip


def _row(stage: Stage, attempt: int, update: int, rate: float) -> dict[str, float]:
    loss = BAD.get((stage, attempt), LOSS[stage]) * (1 - 0.001 * update)
    return {
        "train/loss": loss,
        "learning_rate/group_0": rate,
        "action_entropy": 1.2,
        "unique_actions": 4.0,
        "train/codebook_usage": 0.5,
    }
