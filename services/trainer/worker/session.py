"""What a training process holds from chunk to chunk: model, optimizer, dataset, and where they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from services.trainer.wire import Run
from services.trainer.worker.order import WindowOrder, seed_of
from services.trainer.worker.ranks import Ranks
from services.trainer.worker.tasks import build_task
from shared.bundle import Bundle
from shared.config import StageConfig
from shared.datasets.frames import FramesDataset, dataset_path
from shared.sheets import MOST_ROWS, sheet_path, write_sheet
from shared.worldmodel.build import build_model
from shared.worldmodel.checkpoints import (
    architecture_of,
    check_same_architecture,
    load_checkpoint,
    save_checkpoint,
)
from shared.worldmodel.optim import make_optimizer, restore_optimizer

DATA = Path("data")
"""Where named datasets lie, seen from the directory the stack was started in."""


@dataclass(frozen=True, slots=True)
class Holds:
    """What exactly the weights and the optimizer in memory are."""

    checkpoint: str | None
    """The checkpoint they equal; none is a fresh start."""
    step: int


class Session:
    """State of one rank, built for its first plan.

    Args:
        ranks: The group.
        run: The first plan; later ones differ from it only in what may change between chunks.
        cache: For what can be computed again.

    Raises:
        DatasetError: The dataset cannot be used.
        CheckpointError: An upstream checkpoint cannot be used.
    """

    def __init__(self, ranks: Ranks, run: Run, cache: Path) -> None:
        config = StageConfig.model_validate(run.plan.parameters)
        self.ranks, self.stage, self.seed = ranks, run.plan.stage, config.seed
        self.bundle = Bundle(Path(run.bundle), run.run_name)
        self.dataset = FramesDataset.open(
            dataset_path(config.dataset, DATA),
            context_length=config.context_length,
            fps=config.fps,
            preload_ratio=config.preload_ratio,
            held_out_ratio=config.held_out_ratio,
            cache_dir=cache,
            frame_size=config.frame_size,
        )
        self.order = WindowOrder(self.dataset.train_windows, seed_of(self.seed, self.stage))
        self.task = build_task(self.stage, config, self.bundle, run.plan.upstream, ranks.device)
        self.optimizer = make_optimizer(self.task.model, config)
        if config.compile:
            self.task.model.compile()
        self.model = ranks.wrap(self.task.model)
        self._holds: Holds | None = Holds(None, 0)

    def restore(self, run: Run, config: StageConfig) -> None:
        """Put weights and optimizer where the plan wants them; nothing to do if they are there.

        Raises:
            CheckpointError: The checkpoint is broken, or of another architecture.
        """
        wanted = Holds(run.resume_from, run.resume_step)
        if self._holds == wanted:
            return
        self._holds = None
        if run.resume_from is None:
            self.task.model.load_state_dict(build_model(self.stage, config).state_dict())
            self.optimizer = make_optimizer(self.task.model, config)
        else:
            directory = self.bundle.resolve(run.resume_from)
            checkpoint = load_checkpoint(directory)
            check_same_architecture(
                {
                    str(directory): architecture_of(checkpoint.config, self.stage),
                    "the configuration": architecture_of(config.model_dump(), self.stage),
                }
            )
            self.task.model.load_state_dict(checkpoint.model)
            restore_optimizer(self.optimizer, checkpoint.optimizer)
        self._holds = wanted

    def changed(self) -> None:
        """The weights are about to change: memory is no longer what a checkpoint holds."""
        self._holds = None

    def windows(self, config: StageConfig, update: int, micro: int) -> torch.Tensor:
        """This rank's windows of a micro-batch: uint8 [B, T, H, W, 3] on the device."""
        batch = config.batch_size_per_gpu
        part = (update * config.gradient_accumulation_steps + micro) * self.ranks.size + self.ranks.rank
        taken = self.dataset.batch(self.order.take(part * batch, batch))
        return torch.from_numpy(taken).to(self.ranks.device)

    def generator(self, update: int, micro: int) -> torch.Generator:
        """All randomness of this rank's micro-batch, but for its windows."""
        return torch.Generator().manual_seed(seed_of(self.seed, self.stage, update, micro, self.ranks.rank))

    def finite(self) -> bool:
        """Whether every weight is a number."""
        weights = self.task.model.state_dict().values()
        return all(bool(torch.isfinite(each).all()) for each in weights if each.is_floating_point())

    def save(self, run: Run, config: StageConfig, step: int) -> str:
        """Write the checkpoint of `step` updates done; on rank 0 only.

        Returns:
            Its path in the bundle.
        """
        directory = self.bundle.checkpoint(self.stage, step)
        path = self.bundle.relative(directory)
        if self.ranks.first:
            save_checkpoint(
                directory,
                stage=self.stage,
                model=self.task.model,
                optimizer=self.optimizer,
                step=step,
                config=config,
                schedule=run.plan.schedule,
            )
        self._holds = Holds(path, step)
        return path

    @torch.no_grad()
    def picture(self, step: int) -> Path:
        """Write the sheet of `step` updates done, always of the same windows."""
        rows = min(MOST_ROWS, self.dataset.train_windows)
        places = np.linspace(0, self.dataset.train_windows - 1, rows).round().astype(np.int64)
        frames = torch.from_numpy(self.dataset.batch(places)).to(self.ranks.device)
        self.task.model.eval()
        originals, generated = self.task.sheet(frames)
        self.task.model.train()
        path = sheet_path(self.bundle, self.stage, step)
        write_sheet(path, originals, generated)
        return path
