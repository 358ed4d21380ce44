"""Mixture of experts: the dynamics' feed-forward part when `use_moe` is set.

Shapes: M tokens, E embedding, X experts, `top_k` of them per token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shared.worldmodel.layers import Norm, SwiGLU


class MixtureOfExperts(nn.Module):
    """Each token goes through the `top_k` experts its router likes best, weighted by a softmax over those."""

    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        condition_dim: int | None,
        *,
        experts: int,
        top_k: int,
        coefficient: float,
    ) -> None:
        super().__init__()
        self.top_k, self.coefficient = top_k, coefficient
        self.router = nn.Linear(embed_dim, experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(embed_dim, hidden_dim) for _ in range(experts))
        self.norm = Norm(embed_dim, condition_dim)

    def forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Residual and norm around the experts.

        Args:
            x: [B, T, P, E].
            condition: As the block's norm takes it.

        Returns:
            [B, T, P, E], and the loss that balances the experts (a scalar, coefficient included).
        """
        x_me = x.flatten(0, -2)
        logits_mx = self.router(x_me).float()
        best_mk, chosen_mk = logits_mx.topk(self.top_k, dim=-1)
        weight_mx = torch.zeros_like(logits_mx).scatter(1, chosen_mk, best_mk.softmax(-1))
        mixed_me = torch.zeros_like(x_me)
        for j, expert in enumerate(self.experts):
            assert isinstance(expert, SwiGLU)
            tokens = (chosen_mk == j).any(-1).nonzero().squeeze(-1)
            answer = expert.mix(x_me[tokens]) * weight_mx[tokens, j, None]
            mixed_me = mixed_me.index_add(0, tokens, answer.to(mixed_me.dtype))
        return self.norm(x + mixed_me.view_as(x), condition), self._balance(logits_mx, chosen_mk)

    def _balance(self, logits_mx: Tensor, chosen_mk: Tensor) -> Tensor:
        """Coefficient * X * sum over experts of (share of assignments * mean probability)."""
        experts = logits_mx.shape[-1]
        share_x = torch.bincount(chosen_mk.flatten(), minlength=experts).float() / chosen_mk.numel()
        return self.coefficient * experts * (share_x * logits_mx.softmax(-1).mean(0)).sum()
