"""The video tokenizer: frames to a few discrete tokens per patch, and back.

Shapes: B batch, T frames, H, W pixels, P patches, E embedding, L latent dimensions, D levels each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from shared.config import StageConfig
from shared.worldmodel.layers import PatchEmbed, pointwise, spatial_encoding, to_frames
from shared.worldmodel.quantizer import FiniteScalarQuantizer
from shared.worldmodel.statistics import distinct
from shared.worldmodel.transformer import TrainOutput, Transformer


class Encoder(nn.Module):
    """Frames to latents before quantization."""

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config.frame_size, config.patch_size, config.embed_dim)
        self.transformer = Transformer(
            config.embed_dim, config.num_heads, config.hidden_dim, config.num_blocks
        )
        self.latent_head = nn.Sequential(
            nn.LayerNorm(config.embed_dim), nn.Linear(config.embed_dim, config.latent_dim)
        )

    def forward(self, frames_btchw: Tensor) -> Tensor:
        """[B, T, 3, H, W] -> [B, T, P, L]."""
        return self.latent_head(self.transformer(self.patch_embed(frames_btchw)).x_btpe)  # type: ignore[no-any-return]


class FrameHead(nn.Module):
    """Embeddings to pixels."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.to_pixels = nn.Conv2d(embed_dim, 3 * patch_size**2, 1)

    def forward(self, x_btpe: Tensor) -> Tensor:
        """[B, T, P, E] -> [B, T, 3, H, W]."""
        return to_frames(pointwise(x_btpe, self.to_pixels), self.patch_size)


class Decoder(nn.Module):
    """Quantized latents to frames."""

    spatial_pe: Tensor

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        grid = config.frame_size // config.patch_size
        self.latent_embed = nn.Linear(config.latent_dim, config.embed_dim)
        self.transformer = Transformer(
            config.embed_dim, config.num_heads, config.hidden_dim, config.num_blocks
        )
        self.frame_head = FrameHead(config.patch_size, config.embed_dim)
        self.register_buffer("spatial_pe", spatial_encoding(grid, config.embed_dim), persistent=False)

    def forward(self, latents_btpl: Tensor) -> Tensor:
        """[B, T, P, L] -> [B, T, 3, H, W]."""
        embedded = self.latent_embed(latents_btpl) + self.spatial_pe
        return self.frame_head(self.transformer(embedded).x_btpe)  # type: ignore[no-any-return]


class VideoTokenizer(nn.Module):
    """Stage 1. Each patch of a frame becomes one of D^L tokens; both directions are causal in time."""

    def __init__(self, config: StageConfig) -> None:
        super().__init__()
        self.codes = config.num_bins**config.latent_dim
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantizer = FiniteScalarQuantizer(config.latent_dim, config.num_bins)

    def forward(self, frames_btchw: Tensor) -> TrainOutput:
        """Training: loss of the reconstruction of frames [B, T, 3, H, W] in [-1, 1]."""
        latents_btpl = self.encode(frames_btchw)
        loss = fn.smooth_l1_loss(self.decode(latents_btpl), frames_btchw)
        usage = distinct(self.indices(latents_btpl)) / self.codes
        return TrainOutput(loss, {"train/codebook_usage": usage})

    def encode(self, frames_btchw: Tensor) -> Tensor:
        """Frames [B, T, 3, H, W] -> quantized latents [B, T, P, L], gradient straight through."""
        return self.quantizer(self.encoder(frames_btchw))  # type: ignore[no-any-return]

    def decode(self, latents_btpl: Tensor) -> Tensor:
        """Quantized latents [B, T, P, L] -> frames [B, T, 3, H, W], not clamped."""
        return self.decoder(latents_btpl)  # type: ignore[no-any-return]

    def indices(self, latents_btpl: Tensor) -> Tensor:
        """Quantized latents [B, T, P, L] -> tokens, int64 [B, T, P]."""
        return self.quantizer.indices(latents_btpl)

    def latents(self, indices_btp: Tensor) -> Tensor:
        """Tokens [B, T, P] -> quantized latents [B, T, P, L]."""
        return self.quantizer.latents(indices_btp)

    @torch.no_grad()
    def tokenize(self, frames_btchw: Tensor) -> Tensor:
        """Frames [B, T, 3, H, W] -> tokens, int64 [B, T, P]."""
        return self.indices(self.encode(frames_btchw))
