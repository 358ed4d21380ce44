"""Cross entropy of tokens, without ever holding the scores of all of them.

Shapes: M tokens, E embedding, V different tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS = 512
"""Tokens whose scores are in memory at once: two megabytes of the default vocabulary."""


class TokenLoss(torch.autograd.Function):
    """Summed cross entropy of a linear layer's scores, a cacheful of tokens at a time.

    The gradient of a block's scores is known as soon as the scores are: forward computes the gradients of all
    inputs on the way, backward scales them.
    """

    @staticmethod
    def forward(ctx: Any, x_me: Tensor, weight_ve: Tensor, bias_v: Tensor, targets_m: Tensor) -> Tensor:
        """Sum over the tokens; targets are int64."""
        loss = x_me.new_zeros(())
        slope_me = torch.empty_like(x_me)
        slope_ve, slope_v = torch.zeros_like(weight_ve), torch.zeros_like(bias_v)
        for start in range(0, len(x_me), ROWS):
            part = slice(start, start + ROWS)
            x, targets = x_me[part], targets_m[part]
            scores = torch.addmm(bias_v, x, weight_ve.t())
            chosen, right = targets.unsqueeze(1), scores.new_full((len(x), 1), -1.0)
            total = scores.logsumexp(1, keepdim=True)
            loss += (total - scores.gather(1, chosen)).sum()
            share = scores.sub_(total).exp_().scatter_add_(1, chosen, right)
            torch.mm(share, weight_ve, out=slope_me[part])
            slope_ve.addmm_(share.t(), x)
            slope_v += share.sum(0)
        ctx.save_for_backward(slope_me, slope_ve, slope_v)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of tokens, weight and bias."""
        slope_me, slope_ve, slope_v = ctx.saved_tensors
        return slope_me * grad, slope_ve * grad, slope_v * grad, None
