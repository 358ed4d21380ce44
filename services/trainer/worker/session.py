"""What a training process holds from chunk to chunk: model, optimizer, dataset, and where they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from services.trainer.wire import Run
from services.trainer.worker.data import Data
from services.trainer.worker.order import WindowOrder, seed_of
from services.trainer.worker.ranks import Ranks
from services.trainer.worker.tasks import Inputs, build_task
from shared.bundle import Bundle
from shared.config import StageConfig
from shared.datasets.frames import FramesDataset
from shared.datasets.names import dataset_path, found_in
from shared.sheets import MOST_ROWS, sheet_path, write_sheet
from shared.worldmodel import upstream
from shared.worldmodel.build import build_model, load_weights
from shared.worldmodel.checkpoints import (
    Checkpoint,
    architecture_of,
    check_same_architecture,
    load_checkpoint,
    save_checkpoint,
)
from shared.worldmodel.compiling import compile_model
from shared.worldmodel.optim import make_optimizer, restore_optimizer
from shared.worldmodel.seen import other_recording, record, seen_by, seen_in, with_more

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
        config = StageConfig.recorded(run.plan.parameters)
        self.ranks, self.stage, self.seed = ranks, run.plan.stage, config.seed
        self.bundle = Bundle(Path(run.bundle), run.run_name)
        self.dataset = FramesDataset.configured(
            found_in(Path(run.data_dir) if run.data_dir else None, dataset_path(config.dataset, DATA)),
            config,
            cache_dir=cache,
            frame_size=config.frame_size,
        )
        self.order = WindowOrder(self.dataset.train_windows, seed_of(self.seed, self.stage))
        self.problems: list[str] = []
        """What went wrong without ending the training, once each."""
        self.told: set[str] = set()
        """Those that the end of a chunk has reported."""
        self._data = Data(self.dataset, ranks.device, cache, self.problems.append)
        self.task = build_task(self.stage, config, self.bundle, run.plan.upstream, self._data)
        self.optimizer = make_optimizer(self.task.model, config)
        if config.compile:
            compile_model(self.task.model, ranks.device, cache, self.problems.append)
        self.model = ranks.wrap(self.task.model)
        self._holds: Holds | None = Holds(None, 0)
        self._seen = [seen_in(self.dataset)]
        weights = {stage: model.state_dict() for stage, model in self.task.frozen.items()}
        self._trained_with = upstream.record(run.plan.upstream, weights)

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
            self._seen = [seen_in(self.dataset)]
        else:
            directory = self.bundle.resolve(run.resume_from)
            checkpoint = load_checkpoint(directory)
            check_same_architecture(
                {
                    str(directory): architecture_of(checkpoint.config, self.stage),
                    "the configuration": architecture_of(config.model_dump(), self.stage),
                }
            )
            load_weights(self.task.model, checkpoint)
            restore_optimizer(self.optimizer, checkpoint.optimizer)
            self._remember(checkpoint)
        self._holds = wanted

    def _remember(self, checkpoint: Checkpoint) -> None:
        before = seen_by(checkpoint)
        problem = other_recording(checkpoint.directory.name, before, self.dataset)
        if problem is not None and problem not in self.problems:
            self.problems.append(problem)
        self._seen = with_more(before, seen_in(self.dataset))

    def changed(self) -> None:
        """The weights are about to change: memory is no longer what a checkpoint holds."""
        self._holds = None

    def inputs(self, config: StageConfig, update: int, micro: int) -> Inputs:
        """What this rank trains on in a micro-batch; all randomness in it comes from seed and position."""
        batch = config.batch_size_per_gpu
        part = (update * config.gradient_accumulation_steps + micro) * self.ranks.size + self.ranks.rank
        seed = seed_of(self.seed, self.stage, update, micro, self.ranks.rank)
        return self.task.inputs(self.order.take(part * batch, batch), torch.Generator().manual_seed(seed))

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
                extra=record(self._seen) | self._trained_with,
            )
        self._holds = Holds(path, step)
        return path

    @torch.no_grad()
    def picture(self, step: int) -> Path:
        """Write the sheet of `step` updates done, always of the same windows."""
        rows = min(MOST_ROWS, self.dataset.train_windows)
        places = np.linspace(0, self.dataset.train_windows - 1, rows).round().astype(np.int64)
        self.task.model.eval()
        with torch.compiler.set_stance("force_eager"):  # other shapes than training's: not worth compiling
            originals, generated = self.task.sheet(self._data.frames(places))
        self.task.model.train()
        path = sheet_path(self.bundle, self.stage, step)
        write_sheet(path, originals, generated)
        return path
