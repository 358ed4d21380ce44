"""The latent-action model: what was done between two frames, learned from video alone.

Shapes: B batch, T frames, H, W pixels, P patches, E embedding, A action bits (n_actions = 2^A).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from shared.config import StageConfig
from shared.worldmodel.layers import PatchEmbed, to_frames
from shared.worldmodel.quantizer import FiniteScalarQuantizer
from shared.worldmodel.statistics import action_statistics
from shared.worldmodel.transformer import TrainOutput, Transformer

VARIANCE_FLOOR = 0.01
VARIANCE_WEIGHT = 100.0
SOFTNESS = 0.25
"""Of a code, where its information is measured: the smaller, the surer a bit must be to count."""


def action_bits(n_actions: int) -> int:
    """A: bits that tell `n_actions` codes apart."""
    return n_actions.bit_length() - 1


class Encoder(nn.Module):
    """Frames to the action between each frame and the next, before quantization."""

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        embed, bits = config.embed_dim, action_bits(config.n_actions)
        self.patch_embed = PatchEmbed(config.frame_size, config.patch_size, embed)
        self.transformer = Transformer(embed, config.num_heads, config.hidden_dim, config.num_blocks)
        self.action_head = nn.Sequential(
            nn.LayerNorm(2 * embed), nn.Linear(2 * embed, 4 * bits), nn.GELU(), nn.Linear(4 * bits, bits)
        )

    def forward(self, frames_btchw: Tensor) -> Tensor:
        """[B, T, 3, H, W] -> [B, T-1, A]."""
        pooled_bte = self.transformer(self.patch_embed(frames_btchw)).x_btpe.mean(2)
        pairs = torch.cat([pooled_bte[:, :-1], pooled_bte[:, 1:]], -1)
        return self.action_head(pairs)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """Frames 0..T-2 and the actions after them to frames 1..T-1."""

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        embed = config.embed_dim
        self.patch_size = config.patch_size
        self.patch_embed = PatchEmbed(config.frame_size, config.patch_size, embed)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, 1, embed))
        self.transformer = Transformer(
            embed,
            config.num_heads,
            config.hidden_dim,
            config.num_blocks,
            condition_dim=action_bits(config.n_actions),
        )
        self.frame_head = nn.Sequential(
            nn.LayerNorm(embed), nn.Linear(embed, 3 * config.patch_size**2), nn.Tanh()
        )

    def forward(self, frames_btchw: Tensor, bits_bta: Tensor, *, masked: bool) -> Tensor:
        """Predict the next frames.

        Args:
            frames_btchw: T-1 frames.
            bits_bta: T-1 actions.
            masked: Show the first frame alone, so that the rest has to come from the actions.

        Returns:
            [B, T-1, 3, H, W].
        """
        if masked:
            first = self.patch_embed(frames_btchw[:, :1])
            hidden = self.mask_token.expand(first.shape[0], frames_btchw.shape[1] - 1, first.shape[2], -1)
            embedded = torch.cat([first, hidden.to(first.dtype)], 1)
        else:
            embedded = self.patch_embed(frames_btchw)
        return to_frames(self.frame_head(self.transformer(embedded, bits_bta).x_btpe), self.patch_size)


class LatentActions(nn.Module):
    """Stage 2. The action between two frames becomes one of n_actions codes, A bits of -1 or +1."""

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        self.n_actions = config.n_actions
        self.balance_weight = config.latent_balance_weight
        self.encoder = Encoder(config)
        self.quantizer = FiniteScalarQuantizer(action_bits(config.n_actions), 2)
        self.decoder = Decoder(config)

    def forward(self, frames_btchw: Tensor, *, generator: torch.Generator | None = None) -> TrainOutput:  # noqa: ARG002
        """Training: loss of predicting frames 1..T-1 from the first and the actions.

        Args:
            frames_btchw: In [-1, 1].
            generator: Randomness of the update; TinyWorlds' masking needs none.
        """
        raw_bta = self.encoder(frames_btchw).float()
        bits_bta = self.quantizer(raw_bta)
        predicted = self.decoder(frames_btchw[:, :-1], bits_bta, masked=True)
        loss = prediction_loss(predicted, frames_btchw, raw_bta)
        told = information(raw_bta)
        statistics = action_statistics(self.quantizer.indices(bits_bta), self.n_actions)
        usage = statistics["unique_actions"] / self.n_actions
        metrics = {
            "train/loss": loss.detach(),
            **statistics,
            "latent_actions/codebook_usage": usage,
            "latent_actions/information": told.detach(),
        }
        return TrainOutput(loss - self.balance_weight * told if self.balance_weight else loss, metrics)

    @torch.no_grad()
    def actions(self, frames_btchw: Tensor) -> Tensor:
        """Frames [B, T, 3, H, W] -> code of each transition, int64 [B, T-1]."""
        return self.quantizer.indices(self.quantizer(self.encoder(frames_btchw)))

    def bits(self, codes: Tensor) -> Tensor:
        """Codes [...] -> what conditions the dynamics: float32 [..., A] of -1 and +1, low bit first."""
        return self.quantizer.latents(codes)

    @torch.no_grad()
    def predict(self, frames_btchw: Tensor, bits_bta: Tensor) -> Tensor:
        """Predict frames 1..T-1, each from those before it; nothing is masked.

        Args:
            frames_btchw: T frames, of which the last is not looked at.
            bits_bta: T-1 actions.

        Returns:
            [B, T-1, 3, H, W].
        """
        return self.decoder(frames_btchw[:, :-1], bits_bta, masked=False)  # type: ignore[no-any-return]


def prediction_loss(predicted: Tensor, frames_btchw: Tensor, raw_bta: Tensor) -> Tensor:
    """TinyWorlds' loss: smooth L1, plus a penalty while the encoder's output hardly varies over the batch."""
    variance = raw_bta.var(0, unbiased=False).mean()
    penalty = VARIANCE_WEIGHT * fn.relu(VARIANCE_FLOOR - variance)
    return fn.smooth_l1_loss(predicted, frames_btchw[:, 1:]) + penalty


def information(raw_bta: Tensor) -> Tensor:
    """What a code tells about its transition, nats: most when all are used alike and each is sure of its own.

    Entropy of the batch's mean code minus the mean entropy of the codes, as in MAGVIT-v2 (Yu et al. 2023,
    section 3.1), over soft codes: a bit is +1 with probability sigmoid(tanh(raw) / `SOFTNESS`).

    Args:
        raw_bta: The encoder's output before quantization.
    """
    up_na = torch.sigmoid(torch.tanh(raw_bta.flatten(0, -2)) / SOFTNESS)
    each = (torch.special.entr(up_na) + torch.special.entr(1 - up_na)).sum(-1).mean()
    codes_nc = torch.ones_like(up_na[:, :1])
    for bit in range(up_na.shape[1]):
        up_n1 = up_na[:, bit : bit + 1]
        codes_nc = torch.cat([codes_nc * (1 - up_n1), codes_nc * up_n1], -1)
    found: Tensor = torch.special.entr(codes_nc.mean(0)).sum() - each
    return found
