"""Pixels as the models see them, and as pictures store them.

Shapes: B batch, T frames, H, W pixels, 3 colours.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_float(frames_bthwc: Tensor) -> Tensor:
    """Turn stored frames into model input.

    Args:
        frames_bthwc: uint8 [B, T, H, W, 3].

    Returns:
        float32 [B, T, 3, H, W] in [-1, 1], contiguous.
    """
    frames_btchw = frames_bthwc.movedim(-1, -3).contiguous()
    return frames_btchw.to(torch.float32).mul_(2 / 255).sub_(1)


def to_uint8(frames_btchw: Tensor) -> Tensor:
    """Turn model output into frames as pictures store them.

    Args:
        frames_btchw: float [B, T, 3, H, W]; clamped to [-1, 1].

    Returns:
        uint8 [B, T, H, W, 3], contiguous.
    """
    scaled = frames_btchw.float().clamp(-1, 1).add(1).mul(255 / 2).round()
    return scaled.to(torch.uint8).movedim(-3, -1).contiguous()
