"""Where a rank's training windows come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from services.trainer.worker.order import Indices
from shared.datasets.frames import FramesDataset


@dataclass(frozen=True, slots=True)
class Data:
    """The recording, and what a rank needs to compute with it."""

    dataset: FramesDataset
    device: torch.device
    cache: Path
    """For what can be computed again."""
    report: Callable[[str], None]
    """Takes what went wrong without ending the training."""

    def frames(self, windows: Indices) -> Tensor:
        """Training windows, uint8 [B, T, H, W, 3] on the device."""
        taken = torch.from_numpy(self.dataset.batch(windows))
        if self.device.type == "cuda":
            taken = taken.pin_memory()  # else the copy would wait for the GPU's work before it
        return taken.to(self.device, non_blocking=True)
