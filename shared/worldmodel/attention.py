"""Attention written for many small heads: over the patches of a frame, and over the frames of a window.

Both keep channels before patches, so that every product and sum runs along the long axis of patches.

Shapes: B batch, T frames, P patches, N heads of size K, G heads that are computed together.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

WIDEST = 8
"""Largest head for which `SmallHeads` beats the flash kernel on a CPU."""
BLOCK = 1 << 20
"""Scores computed at once: they stay in the cache, and threads have enough to share."""
STEEP = 64.0
"""Scores, as powers of two, up to which a sum of them neither overflows nor vanishes in float32."""


def by_hand(x: Tensor) -> bool:
    """Whether what is written by hand for the CPU applies: float32 there, neither autocast nor compiled."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class SmallHeads(torch.autograd.Function):
    """Softmax attention of every patch to every patch of its frame, a cacheful of scores at a time.

    With four channels per head the exponentials and the shape of the products decide the time: scores are
    powers of two (`exp2` costs a quarter of `exp`), the row sums come out of the product with the values
    through a channel of ones, and each product has the patches as its long side. As in Dao's
    FlashAttention-2 (arXiv 2307.08691) the backward pass computes the scores anew from the saved row sums.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor) -> Tensor:
        """Queries, keys, values [F, 3, N, K, P] -> [F, N, K, P]; F is any number of frames."""
        frames, _, heads, width, patches = qkv.shape
        q, k, v = (part.reshape(frames * heads, width, patches) for part in qkv.unbind(1))
        q, v = q * (width**-0.5 * math.log2(math.e)), _with_row(v, 1.0)
        summed, peaks = _summed(q, k, v)
        total = summed[:, width:]
        seen = summed[:, :width] / total
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(_with_row(q, -(peaks + total.log2())), _with_row(k, 1.0), v, seen)
        return seen.view(frames, heads, width, patches)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Gradient of queries, keys and values together: [F, 3, N, K, P]."""
        q, k, v, seen = ctx.saved_tensors
        frames, heads, width, patches = grad.shape
        grad = grad.reshape(frames * heads, width, patches)
        # the extra rows subtract: the log of each row's sum from its scores, sum(p * dp) from each row of dp
        shifted = _with_row(grad, -(grad * seen).sum(1, keepdim=True))
        dq, dk, dv = grad.new_empty(3, *grad.shape).unbind()
        for (part, shares), (_, slopes) in zip(_blocks(q, k), _blocks(q, k), strict=True):
            torch.bmm(q[part].transpose(1, 2), k[part], out=shares)
            shares.exp2_()
            torch.bmm(grad[part], shares, out=dv[part])
            torch.bmm(shifted[part].transpose(1, 2), v[part], out=slopes)
            slopes.mul_(shares)
            torch.bmm(q[part, :width], slopes, out=dk[part])
            torch.bmm(k[part, :width], slopes.transpose(1, 2), out=dq[part])
        dq.mul_(width**-0.5)
        dk.mul_(math.log(2))
        return torch.stack([each.view(frames, heads, width, patches) for each in (dq, dk, dv)], 1)


def seen_by(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What `SmallHeads` computes, of some queries and without a gradient.

    Args:
        q: [F, N, K, M], for any number M of patches.
        k: [F, N, K, P].
        v: [F, N, K, P].

    Returns:
        [F, N, K, M].
    """
    width = q.shape[2]
    summed, _ = _summed(
        q.flatten(0, 1) * (width**-0.5 * math.log2(math.e)), k.flatten(0, 1), _with_row(v.flatten(0, 1), 1.0)
    )
    return (summed[:, :width] / summed[:, width:]).view(q.shape)


def _summed(q_gkm: Tensor, k_gkp: Tensor, v_gkp: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over P of two to the score times the value, [G, K, M], and what was taken off the scores."""
    largest = q_gkm.square().sum(1).amax() * k_gkp.square().sum(1).amax()
    steep = bool(largest > STEEP**2)
    summed = v_gkp.new_empty(*v_gkp.shape[:2], q_gkm.shape[2])
    peaks = q_gkm.new_zeros(len(q_gkm), 1, q_gkm.shape[2])
    for part, scores in _blocks(q_gkm, k_gkp):
        torch.bmm(q_gkm[part].transpose(1, 2), k_gkp[part], out=scores)
        if steep:
            top = scores.amax(-1, keepdim=True)
            peaks[part] = top.transpose(1, 2)
            scores.sub_(top)
        scores.exp2_()
        torch.bmm(v_gkp[part], scores.transpose(1, 2), out=summed[part])
    return summed, peaks


def _with_row(x_gkp: Tensor, row: Tensor | float) -> Tensor:
    """One channel more: [G, K, P] -> [G, K+1, P]."""
    last = x_gkp.new_full((len(x_gkp), 1, x_gkp.shape[2]), row) if isinstance(row, float) else row
    return torch.cat([x_gkp, last], 1)


def _blocks(q_gkm: Tensor, k_gkp: Tensor) -> Any:
    """Slices of the heads, and the one buffer [G, M, P] that takes the scores of each."""
    number, shape = len(q_gkm), (q_gkm.shape[2], k_gkp.shape[2])
    size = min(number, max(1, BLOCK // math.prod(shape)))
    buffer = q_gkm.new_empty(size, *shape)
    for start in range(0, number, size):
        part = slice(start, min(start + size, number))
        yield part, buffer[: part.stop - start]


class CausalAttention(torch.autograd.Function):
    """Softmax attention over the frame axis: a frame sees itself and those before.

    A window has a handful of frames: sums of products beat a million matrix products of 4 x 4.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries [B, T, N, K, P] of the last T of the T' frames in keys and values -> [B, T, N, K, P]."""
        q = q * q.shape[3] ** -0.5
        before = k.shape[1] - q.shape[1]
        shares = [
            (q[:, t, None] * k[:, : before + t + 1]).sum(3).softmax(1).unsqueeze(3) for t in range(q.shape[1])
        ]
        ctx.save_for_backward(q, k, v, *shares)
        return torch.stack([(share * v[:, : share.shape[1]]).sum(1) for share in shares], 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and values."""
        q, k, v, *shares = ctx.saved_tensors
        dq, dk, dv = [], torch.zeros_like(k), torch.zeros_like(v)
        for t, share in enumerate(shares):
            until, here = share.shape[1], grad[:, t, None]
            slope = (here * v[:, :until]).sum(3, keepdim=True)
            slope = share * (slope - (share * slope).sum(1, keepdim=True))
            dq.append((slope * k[:, :until]).sum(1))
            dk[:, :until].addcmul_(slope, q[:, t, None])
            dv[:, :until].addcmul_(share, here)
        return torch.stack(dq, 1).mul_(q.shape[3] ** -0.5), dk, dv
