"""Finite scalar quantization: each latent dimension is rounded to one of D levels.

Shapes: L latent dimensions, D levels (bins); `...` anything in front.
A code index is sum(digit_i * D^i), the first dimension the lowest digit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def basis_of(latent_dim: int, num_bins: int) -> Tensor:
    """Weight of each digit in a code index: int64 [L]."""
    return torch.tensor([num_bins**i for i in range(latent_dim)], dtype=torch.int64)


def latents_of(indices: Tensor, basis_l: Tensor, num_bins: int) -> Tensor:
    """Latents of code indices.

    Args:
        indices: int64 [...].
        basis_l: What `basis_of` returns.
        num_bins: D.

    Returns:
        float32 [..., L], each value one of D levels in [-1, 1].
    """
    digits = indices.unsqueeze(-1) // basis_l % num_bins
    return digits.to(torch.float32) * (2 / (num_bins - 1)) - 1


class FiniteScalarQuantizer(nn.Module):
    """tanh, round half to even onto D levels, gradient straight through."""

    basis: Tensor

    def __init__(self, latent_dim: int, num_bins: int) -> None:
        super().__init__()
        self.num_bins = num_bins
        self.register_buffer("basis", basis_of(latent_dim, num_bins))

    def forward(self, z: Tensor) -> Tensor:
        """Quantize [..., L]: float32, each value one of D levels in [-1, 1]."""
        levels = self.num_bins - 1
        scaled = (torch.tanh(z.float()) + 1) * (levels / 2)
        # the value is exactly the rounded one, the gradient that of `scaled`
        rounded = scaled.detach().round() + (scaled - scaled.detach())
        return rounded * (2 / levels) - 1

    def indices(self, latents: Tensor) -> Tensor:
        """Code index of quantized latents [..., L]: int64 [...]."""
        digits = ((latents.detach().float() + 1) * ((self.num_bins - 1) / 2)).round().to(torch.int64)
        return (digits * self.basis).sum(-1)

    def latents(self, indices: Tensor) -> Tensor:
        """Quantized latents of code indices [...]: float32 [..., L]."""
        return latents_of(indices, self.basis, self.num_bins)
