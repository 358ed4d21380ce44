"""RMS norm in few passes over the memory.

Shapes: `...` tokens, E embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class RmsNorm(torch.autograd.Function):
    """`x / sqrt(mean(x^2) + eps) * weight`, keeping one tensor of the input's size for the gradient.

    torch composes it on the CPU from operations that each go through the memory, and keeps two.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_e: Tensor, eps: float) -> Tensor:
        """[..., E] -> [..., E]."""
        scale = x.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        normal = x * scale
        ctx.save_for_backward(normal, scale, weight_e)
        return normal * weight_e

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of input and weight."""
        normal, scale, weight_e = ctx.saved_tensors
        product = grad * normal
        along = torch.mv(product.flatten(0, -2), weight_e).div_(len(weight_e)).view(scale.shape)
        slope = (grad * weight_e).addcmul_(normal, along, value=-1).mul_(scale)
        return slope, product.flatten(0, -2).sum(0), None
