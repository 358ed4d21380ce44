"""Which tokens are hidden from the dynamics while it trains.

Shapes: B batch, T frames, P patches of a frame. True is hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor


def tinyworlds_mask(batch: int, frames: int, patches: int, generator: torch.Generator) -> Tensor:
    """TinyWorlds' masking: one ratio in [0.5, 1) for all; each patch stays visible in one random frame.

    Returns:
        bool [B, T, P].
    """
    ratio = 0.5 + 0.5 * torch.rand((), generator=generator)
    mask_btp = torch.rand(batch, frames, patches, generator=generator) < ratio
    visible_b1p = torch.randint(frames, (batch, 1, patches), generator=generator)
    return mask_btp.scatter(1, visible_b1p, value=False)


def last_frame_mask(batch: int, frames: int, patches: int, generator: torch.Generator) -> Tensor:
    """Mask as decoding does: nothing but the last frame, half of the samples all of it, else a random share.

    Returns:
        bool [B, T, P]; at least one token of every sample is hidden.
    """
    ratio_b1 = torch.rand(batch, 1, generator=generator)
    whole_b1 = torch.rand(batch, 1, generator=generator) < 0.5
    draw_bp = torch.rand(batch, patches, generator=generator)
    hidden_bp = whole_b1 | (draw_bp < ratio_b1) | (draw_bp == draw_bp.amin(1, keepdim=True))
    mask_btp = torch.zeros(batch, frames, patches, dtype=torch.bool)
    mask_btp[:, -1] = hidden_bp
    return mask_btp


def strangers(indices_btp: Tensor, largest: float, generator: torch.Generator) -> Tensor:
    """Replace tokens of the context by those that another sample has at the same place.

    While decoding, the context is what was generated before, errors included; this is what they are like.

    Args:
        indices_btp: Tokens.
        largest: Share of a sample's tokens that is replaced, at most; the share itself is drawn per sample.
        generator: On the CPU.

    Returns:
        int64 [B, T, P]; the last frame is as it was.
    """
    batch, frames, patches = indices_btp.shape
    share_b11 = largest * torch.rand(batch, 1, 1, generator=generator)
    replaced_btp = torch.rand(batch, frames, patches, generator=generator) < share_b11
    replaced_btp[:, -1] = False
    others_b = torch.randint(batch, (batch,), generator=generator)
    device = indices_btp.device
    others_btp = indices_btp[others_b.to(device, non_blocking=True)]
    return torch.where(replaced_btp.to(device, non_blocking=True), others_btp, indices_btp)


def drops_a_frame(generator: torch.Generator) -> bool:
    """Whether a batch is cut to one frame fewer, so that short contexts are known: a quarter of them."""
    return bool(torch.rand((), generator=generator) < 0.25)
