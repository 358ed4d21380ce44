"""The space-time transformer that all three models are built from, and what its training forward returns.

Shapes: as in `layers`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from shared.worldmodel.layers import (
    FeedForward,
    SpatialAttention,
    TemporalAttention,
    pick_last,
    temporal_encoding,
)
from shared.worldmodel.moe import MixtureOfExperts

Cache = list[tuple[Tensor, Tensor]]
"""Per block, the temporal keys and values [B, T, N, K, P] of the frames already seen."""
LONGEST_WINDOW = 1024
"""Frames for which the temporal encoding is tabulated."""


class TrainOutput(NamedTuple):
    """What the training forward of every model returns."""

    loss: Tensor
    """Scalar, to be minimized."""
    metrics: dict[str, Tensor]
    """Detached scalars under the history's column names; `train/loss` among them, where the history records
    another loss than the one to be minimized (TinyWorlds', so that limits on it mean the same).
    """


class Experts(NamedTuple):
    """Makes the feed-forward parts mixtures of experts."""

    number: int
    top_k: int
    coefficient: float
    """Weight of the balancing loss."""


class Hidden(NamedTuple):
    """What the transformer makes of some frames."""

    x_btpe: Tensor
    cache: Cache
    """Lets later frames be computed without these again."""
    auxiliary: Tensor | None
    """Sum of the blocks' balancing losses; none without experts."""


class Block(nn.Module):
    """Attention in space, attention in time, feed-forward; each with residual, then norm."""

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        condition_dim: int | None,
        experts: Experts | None,
    ) -> None:
        super().__init__()
        self.spatial_attn = SpatialAttention(embed_dim, num_heads, condition_dim)
        self.temporal_attn = TemporalAttention(embed_dim, num_heads, condition_dim)
        self.ffn = (
            FeedForward(embed_dim, hidden_dim, condition_dim)
            if experts is None
            else MixtureOfExperts(
                embed_dim,
                hidden_dim,
                condition_dim,
                experts=experts.number,
                top_k=experts.top_k,
                coefficient=experts.coefficient,
            )
        )

    def forward(
        self,
        x_btpe: Tensor,
        condition_bfa: Tensor | None,
        past: tuple[Tensor, Tensor] | None,
        places_bm: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor | None]:
        """The frames (of a single one, these places), temporal keys and values so far, auxiliary loss."""
        x_btpe = self.spatial_attn(x_btpe, condition_bfa, places_bm)
        if past is not None and places_bm is not None:
            past = pick_last(past[0], places_bm), pick_last(past[1], places_bm)
        x_btpe, keys_values = self.temporal_attn(x_btpe, condition_bfa, past)
        x_btpe, auxiliary = self.ffn(x_btpe, condition_bfa)
        return x_btpe, keys_values, auxiliary


class Transformer(nn.Module):
    """Blocks over a window of frames; frame t depends on frames 0..t alone.

    Args:
        embed_dim: E.
        num_heads: N.
        hidden_dim: Nominal width of the feed-forward part, of which two thirds are used.
        num_blocks: Number of blocks.
        condition_dim: A, or none for a transformer that takes no conditions.
        experts: Makes it a mixture of experts.
    """

    temporal_tpe: Tensor

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        num_blocks: int,
        *,
        condition_dim: int | None = None,
        experts: Experts | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, hidden_dim, condition_dim, experts) for _ in range(num_blocks)
        )
        self.register_buffer("temporal_tpe", temporal_encoding(LONGEST_WINDOW, embed_dim), persistent=False)

    def forward(
        self,
        x_btpe: Tensor,
        condition_bfa: Tensor | None = None,
        past: Cache | None = None,
        places_bm: Tensor | None = None,
    ) -> Hidden:
        """Run frames through the blocks.

        Args:
            x_btpe: Embeddings of the frames, positions in the frame already added.
            condition_bfa: One condition per frame, or one fewer: then the first frame has none.
            past: What an earlier call's `Hidden.cache` said about the frames before these.
            places_bm: Patches of a single frame that are wanted, M of them; none is all. The last block
                computes no others, and no later frame can go on from its cache.
        """
        before = past[0][0].shape[1] if past else 0
        x_btpe = x_btpe + self.temporal_tpe[before : before + x_btpe.shape[1]]
        cache: Cache = []
        losses: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x_btpe, keys_values, auxiliary = block(
                x_btpe,
                condition_bfa,
                past[i] if past else None,
                places_bm if i == len(self.blocks) - 1 else None,
            )
            cache.append(keys_values)
            if auxiliary is not None:
                losses.append(auxiliary)
        return Hidden(x_btpe, cache, torch.stack(losses).sum() if losses else None)
