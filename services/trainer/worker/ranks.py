"""The ranks of the group: who this process is, and what all of them say to each other.

What travels between ranks besides gradients are host tensors over gloo: an idle group leaves its GPUs alone.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(days=30)
"""Collectives wait this long: whoever hangs or idles is the trainer's concern, which watches the steps."""


class Ranks:
    """This process among the ranks of its group; with one rank nothing is ever sent.

    Args:
        cuda: Train on this rank's GPU instead of the CPU.
    """

    def __init__(self, *, cuda: bool) -> None:
        self.rank, self.size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.host = int(os.environ.get("GROUP_RANK", "0"))
        """Which of several hosts this is."""
        self.device = (
            torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
        )
        if cuda:
            torch.cuda.set_device(self.device)
        if self.size > 1:
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes files and talks to the trainer."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def sum(self, values: list[float]) -> list[float]:
        """Sums over the ranks, the same bits on every rank."""
        if self.size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model, with gradients averaged over the ranks.

        Searching for unused parameters keeps the gradients where they were first put: DDP would otherwise
        order them anew after its first update, and with them the order in which three ranks are summed.
        """
        if self.size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(
            model, devices, broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=True
        )

    def leave(self) -> None:
        """End this process if it is one of several.

        Nothing is torn down: the group's destructor holds the interpreter's lock while it waits for gloo's
        thread, which now and then needs that lock to drop its last tensor, and then neither ever ends.
        """
        if self.size > 1:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)


def local_gradients(model: nn.Module) -> AbstractContextManager[None]:
    """While inside, gradients stay with their rank: for all micro-batches but the last."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
