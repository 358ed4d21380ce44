"""Textbook mode: our models computed as a straightforward implementation computes them.

Weights, names and results are ours; only the way there is the usual one: explicit softmax over all scores,
separate projections, norms written out, encodings made anew, logits at every place, a sampler that loops over
the batch, asks the device at each step and computes the context each time. `benchmarks/training.py` measures
against it, `tests/unit/worldmodel/test_textbook.py` holds that both compute the same.

Shapes: as in `shared.worldmodel.layers`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as fn

from shared.worldmodel.decoding import FEWEST, STEEPNESS
from shared.worldmodel.dynamics import Dynamics
from shared.worldmodel.layers import (
    EPS,
    FeedForward,
    Norm,
    PatchEmbed,
    SpatialAttention,
    SwiGLU,
    TemporalAttention,
    temporal_encoding,
)
from shared.worldmodel.transformer import Cache, Hidden, Transformer
from shared.worldmodel.video_tokenizer import FrameHead, VideoTokenizer


class TextbookNorm(Norm):
    """Norms written out."""

    def forward(self, x_btpe: Tensor, condition_bfa: Tensor | None) -> Tensor:
        """As `Norm.forward`."""
        if not self.conditioned:
            scale = torch.rsqrt(x_btpe.pow(2).mean(-1, keepdim=True) + EPS)
            weight: Tensor = self.rms.weight
            return x_btpe * scale * weight
        centred = x_btpe - x_btpe.mean(-1, keepdim=True)
        normal = centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + EPS)
        if condition_bfa is None:
            return normal
        gamma, beta = self.to_gamma_beta(condition_bfa).chunk(2, -1)
        if condition_bfa.shape[1] < x_btpe.shape[1]:
            nothing = torch.zeros_like(gamma[:, :1])
            gamma, beta = torch.cat([nothing, gamma], 1), torch.cat([nothing, beta], 1)
        gamma = gamma.unsqueeze(2).expand_as(x_btpe)
        moved: Tensor = normal * (1 + gamma) + beta.unsqueeze(2).expand_as(x_btpe)
        return moved


class TextbookSpatial(SpatialAttention):
    """Scores, softmax and sum as three operations over all patches."""

    def forward(
        self, x_btpe: Tensor, condition_bfa: Tensor | None, places_bm: Tensor | None = None
    ) -> Tensor:
        """As `SpatialAttention.forward`, always of all patches."""
        assert places_bm is None

        def heads(x: Tensor) -> Tensor:
            return x.reshape(-1, x.shape[2], self.num_heads, self.head).transpose(1, 2)

        q, k, v = heads(self.q_proj(x_btpe)), heads(self.k_proj(x_btpe)), heads(self.v_proj(x_btpe))
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
        seen = torch.matmul(fn.softmax(scores, dim=-1), v)
        mixed = self.out_proj(seen.transpose(1, 2).reshape(x_btpe.shape))
        return self.norm(x_btpe + mixed, condition_bfa)  # type: ignore[no-any-return]


class TextbookTemporal(TemporalAttention):
    """The same over frames, with a causal mask made anew."""

    def forward(
        self, x_btpe: Tensor, condition_bfa: Tensor | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As `TemporalAttention.forward`, always over the whole window."""
        assert past is None
        batch, frames, patches, _ = x_btpe.shape

        def heads(x: Tensor) -> Tensor:
            return x.transpose(1, 2).reshape(-1, frames, self.num_heads, self.head).transpose(1, 2)

        q, k, v = heads(self.q_proj(x_btpe)), heads(self.k_proj(x_btpe)), heads(self.v_proj(x_btpe))
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
        later = torch.triu(torch.ones(frames, frames), diagonal=1).bool().to(x_btpe.device)
        scores = scores.masked_fill(later, -torch.inf)
        seen = torch.matmul(fn.softmax(scores, dim=-1), v)
        joined = seen.transpose(1, 2).reshape(batch, patches, frames, -1).transpose(1, 2)
        return self.norm(x_btpe + self.out_proj(joined), condition_bfa), (k, v)


class TextbookSwiGLU(SwiGLU):
    """Three linear layers."""

    def mix(self, x: Tensor) -> Tensor:
        """As `SwiGLU.mix`."""
        return self.w_o(fn.silu(self.w_v(x)) * self.w_g(x))  # type: ignore[no-any-return]


class TextbookFeedForward(TextbookSwiGLU, FeedForward):
    """The block's part of it."""


class TextbookPatches(PatchEmbed):
    """Patches by a convolution."""

    def forward(self, frames_btchw: Tensor) -> Tensor:
        """As `PatchEmbed.forward`."""
        cut = fn.pixel_unshuffle(frames_btchw.flatten(0, 1), self.patch_size)
        embedded: Tensor = self.proj(cut).flatten(2).transpose(1, 2)
        return embedded.reshape(*frames_btchw.shape[:2], *embedded.shape[1:]) + self.spatial_pe


class TextbookFrameHead(FrameHead):
    """Pixels by a convolution."""

    def forward(self, x_btpe: Tensor) -> Tensor:
        """As `FrameHead.forward`."""
        grid = round(x_btpe.shape[2] ** 0.5)
        channels = x_btpe.flatten(0, 1).transpose(1, 2).reshape(-1, x_btpe.shape[-1], grid, grid)
        frames = fn.pixel_shuffle(self.to_pixels(channels), self.patch_size)
        return frames.reshape(*x_btpe.shape[:2], *frames.shape[1:])


class TextbookTransformer(Transformer):
    """The temporal encoding made anew."""

    def forward(
        self,
        x_btpe: Tensor,
        condition_bfa: Tensor | None = None,
        past: Cache | None = None,
        places_bm: Tensor | None = None,
    ) -> Hidden:
        """As `Transformer.forward`, always over the whole window."""
        assert past is None and places_bm is None  # noqa: PT018
        x_btpe = x_btpe + temporal_encoding(x_btpe.shape[1], x_btpe.shape[-1]).to(x_btpe)
        auxiliary = None
        for block in self.blocks:
            x_btpe, _, loss = block(x_btpe, condition_bfa, None)
            if loss is not None:
                auxiliary = loss if auxiliary is None else auxiliary + loss
        return Hidden(x_btpe, [], auxiliary)


class TextbookDynamics(Dynamics):
    """Logits and cross entropy at every place, hidden or not."""

    def loss(self, indices_btp: Tensor, bits_bta: Tensor | None, mask_btp: Tensor) -> Tensor:
        """As `Dynamics.loss`."""
        mask_btp = mask_btp.to(indices_btp.device)
        latents = self.latents(indices_btp)
        latents = torch.where(mask_btp.unsqueeze(-1), self.mask_token.expand_as(latents), latents)
        hidden = self.hidden(latents, bits_bta)
        logits = self.output_mlp(hidden.x_btpe)
        each = fn.cross_entropy(logits.flatten(0, -2), indices_btp.flatten(), reduction="none")
        counts = mask_btp.flatten().float()
        loss = (each * counts).sum() / counts.sum().clamp_min(1)
        return loss if hidden.auxiliary is None else loss + hidden.auxiliary

    def logits(self, latents_btpl: Tensor, bits_bta: Tensor | None) -> Tensor:
        """As `Dynamics.logits`."""
        return self.output_mlp(self.hidden(latents_btpl, bits_bta).x_btpe)  # type: ignore[no-any-return]


TEXTBOOK: dict[type[nn.Module], type[nn.Module]] = {
    Norm: TextbookNorm,
    SpatialAttention: TextbookSpatial,
    TemporalAttention: TextbookTemporal,
    SwiGLU: TextbookSwiGLU,
    FeedForward: TextbookFeedForward,
    PatchEmbed: TextbookPatches,
    FrameHead: TextbookFrameHead,
    Transformer: TextbookTransformer,
    Dynamics: TextbookDynamics,
}


def as_textbook(model: nn.Module) -> nn.Module:
    """Make a model compute as textbooks do, in place: the same modules and weights, other forwards."""
    for module in model.modules():
        module.__class__ = TEXTBOOK.get(type(module), type(module))
    return model


@torch.no_grad()
def textbook_decode(
    dynamics: Dynamics, tokenizer: VideoTokenizer, context_frames: Tensor, codes: Tensor, *, steps: int
) -> Tensor:
    """The frame after a context at temperature 0, as the reference samples it.

    Args:
        dynamics: In textbook mode.
        tokenizer: In textbook mode.
        context_frames: [B, Tc, 3, H, W] in [-1, 1].
        codes: Action codes of every transition, [B, Tc].
        steps: Decoding steps.

    Returns:
        [B, 1, 3, H, W] clamped to [-1, 1].
    """
    bits = dynamics.bits(codes)
    context = tokenizer.latents(tokenizer.tokenize(context_frames))
    batch, frames, patches, _ = context.shape
    latents = torch.cat([context, dynamics.mask_token.expand(batch, 1, patches, -1)], 1)
    hidden = torch.ones(batch, patches, dtype=torch.bool, device=latents.device)
    for m in range(steps):
        probabilities = fn.softmax(dynamics.logits(latents, bits), dim=-1)
        confidence, candidates = probabilities.max(-1)
        due = (
            patches if m == steps - 1 else patches * math.expm1(STEEPNESS * m / steps) / math.expm1(STEEPNESS)
        )
        for b in range(batch):
            places = torch.where(hidden[b])[0]
            if places.numel() == 0:
                continue
            left = int(places.numel())
            count = max(patches // FEWEST, 1, min(max(math.ceil(due) - (patches - left), 0), left))
            if left > count:
                places = places[confidence[b, frames, places].topk(count).indices]
            latents[b, frames, places] = tokenizer.latents(candidates[b, frames, places])
            hidden[b, places] = False
        if not hidden.any():
            break
    return tokenizer.decode(latents)[:, -1:].clamp(-1, 1)
