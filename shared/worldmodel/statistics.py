"""Statistics of codes within a batch, as the history records them."""

from __future__ import annotations

import torch
from torch import Tensor


def distinct(codes: Tensor) -> Tensor:
    """How many different codes occur: a float scalar (computed without waiting for the device)."""
    ordered = codes.flatten().sort().values
    return (ordered[1:] != ordered[:-1]).sum().float() + 1


def action_statistics(codes: Tensor, n_actions: int) -> dict[str, Tensor]:
    """`action_entropy` (nats) and `unique_actions` of int64 action codes of any shape."""
    # not `bincount`: it waits for the device to learn how many bins there are
    chosen = codes.reshape(-1, 1) == torch.arange(n_actions, device=codes.device)
    share = chosen.sum(0).float() / codes.numel()
    return {"action_entropy": torch.special.entr(share).sum(), "unique_actions": (share > 0).sum().float()}
