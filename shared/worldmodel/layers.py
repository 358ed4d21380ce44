"""What the transformer is made of: patches, positions, norms, attention, feed-forward.

Shapes: B batch, T frames, C = 3 colours, H, W pixels, S patch size, P patches of a frame (row-major), E
embedding, N heads of size K = E / N, A action bits, F conditions (T, or T - 1 when the first frame has none).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as fn
from torch.utils.checkpoint import checkpoint

from shared.worldmodel.attention import WIDEST, CausalAttention, SmallHeads, by_hand, seen_by
from shared.worldmodel.rms_norm import RmsNorm

EPS = 1e-5
ONEDNN_SAMPLES = 16
"""Fewest samples for which torch leaves a small convolution to oneDNN."""
MANY_TOKENS = 1024
"""Tokens from which that is worth the way there."""


# --- positions --------------------------------------------------------------------------------------------


def _sinusoids(positions: Tensor, width: int) -> Tensor:
    """[n] -> [n, width]: sine on even, cosine on odd dimensions, base 10000 over this width."""
    dims = torch.arange(width)
    rate = torch.exp((dims - dims % 2) * (-torch.log(torch.tensor(10000.0)) / max(width, 1)))
    angles = positions[:, None] * rate
    return torch.where(dims % 2 == 0, angles.sin(), angles.cos())


def _widths(embed_dim: int) -> tuple[int, int, int]:
    """How many dimensions tell the column, the row and the frame."""
    time = embed_dim // 3 // 2 * 2
    column = (embed_dim - time) // 2 // 2 * 2
    return column, embed_dim - time - column, time


def spatial_encoding(grid: int, embed_dim: int) -> Tensor:
    """Where a patch lies in a `grid` x `grid` frame: [P, E], zero in the temporal dimensions."""
    column, row, time = _widths(embed_dim)
    places = torch.arange(grid, dtype=torch.float32)
    x_px = _sinusoids(places, column).repeat(grid, 1)
    y_py = _sinusoids(places, row).repeat_interleave(grid, 0)
    return torch.cat([x_px, y_py, torch.zeros(grid * grid, time)], 1)


def temporal_encoding(frames: int, embed_dim: int) -> Tensor:
    """Which frame of the window it is: [T, 1, E], zero in the spatial dimensions."""
    column, row, time = _widths(embed_dim)
    steps = torch.arange(frames, dtype=torch.float32)
    return torch.cat([torch.zeros(frames, column + row), _sinusoids(steps, time)], 1)[:, None]


# --- patches ----------------------------------------------------------------------------------------------


def to_patches(frames_btchw: Tensor, patch_size: int) -> Tensor:
    """Cut frames into patches: [B, T, P, C*S*S], ordered (colour, row, column) inside."""
    batch, time, colours, height, width = frames_btchw.shape
    rows, columns = height // patch_size, width // patch_size
    cut = frames_btchw.reshape(batch, time, colours, rows, patch_size, columns, patch_size)
    return cut.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, time, rows * columns, -1)


def to_frames(patches_btpx: Tensor, patch_size: int) -> Tensor:
    """Put patches [B, T, P, 3*S*S] together again: [B, T, 3, H, W] of square frames."""
    batch, time, patches, _ = patches_btpx.shape
    grid = round(patches**0.5)
    cut = patches_btpx.reshape(batch, time, grid, grid, 3, patch_size, patch_size)
    size = grid * patch_size
    return cut.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, time, 3, size, size)


def pick(values_bnx: Tensor, places_bm: Tensor) -> Tensor:
    """Rows of each sample: [B, N, X] and [B, M] -> [B, M, X]."""
    return values_bnx.gather(1, places_bm.unsqueeze(-1).expand(-1, -1, values_bnx.shape[-1]))


def pick_last(values: Tensor, places_bm: Tensor) -> Tensor:
    """The same along a last axis: [B, ..., N] and [B, M] -> [B, ..., M]."""
    places = places_bm.view(len(places_bm), *[1] * (values.dim() - 2), -1)
    return values.gather(-1, places.expand(*values.shape[:-1], -1))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer over the last dimension, on a CPU as a 1x1 convolution where that is faster.

    The sums are the same, but convolutions of enough samples are oneDNN's, which uses AVX-512 on every
    maker's processors; products are MKL's, which does so on Intel's alone.
    """
    tokens = x.shape[:-1].numel()
    if (
        x.device.type == "cpu"
        and tokens >= MANY_TOKENS
        and tokens % ONEDNN_SAMPLES == 0
        and not torch.compiler.is_compiling()
    ):
        samples = x.reshape(ONEDNN_SAMPLES, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)
        out = fn.conv2d(samples, weight[..., None, None], bias)
        return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)
    return fn.linear(x, weight, bias)


def pointwise(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution applied to a last dimension of channels."""
    return linear(x, conv.weight.flatten(1), conv.bias)


class PatchEmbed(nn.Module):
    """Frames to patch embeddings that know their place in the frame."""

    spatial_pe: Tensor

    def __init__(self, frame_size: int, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3 * patch_size**2, embed_dim, 1)
        self.register_buffer(
            "spatial_pe", spatial_encoding(frame_size // patch_size, embed_dim), persistent=False
        )

    def forward(self, frames_btchw: Tensor) -> Tensor:
        """[B, T, 3, H, W] -> [B, T, P, E]."""
        return pointwise(to_patches(frames_btchw, self.patch_size), self.proj) + self.spatial_pe


# --- block ------------------------------------------------------------------------------------------------


class Norm(nn.Module):
    """RMS norm, or without parameters of its own, scaled and shifted by a condition per frame."""

    def __init__(self, embed_dim: int, condition_dim: int | None) -> None:
        super().__init__()
        self.conditioned = condition_dim is not None
        if condition_dim is None:
            self.rms = nn.RMSNorm(embed_dim, eps=EPS)
        else:
            linear = nn.Linear(condition_dim, 2 * embed_dim)
            nn.init.normal_(linear.weight, std=1e-3)
            nn.init.zeros_(linear.bias)
            self.to_gamma_beta = nn.Sequential(nn.SiLU(), linear)

    def forward(self, x_btpe: Tensor, condition_bfa: Tensor | None) -> Tensor:
        """Norm over E; with T-1 conditions for T frames the first frame has none."""
        if not self.conditioned:
            if by_hand(x_btpe):
                return RmsNorm.apply(x_btpe, self.rms.weight, EPS)  # type: ignore[no-any-return,no-untyped-call]
            return self.rms(x_btpe)  # type: ignore[no-any-return]
        normal = fn.layer_norm(x_btpe, x_btpe.shape[-1:], eps=EPS)
        if condition_bfa is None:
            return normal
        gamma_beta = self.to_gamma_beta(condition_bfa)
        if condition_bfa.shape[1] < x_btpe.shape[1]:
            gamma_beta = fn.pad(gamma_beta, (0, 0, 1, 0))
        gamma, beta = gamma_beta.unsqueeze(2).chunk(2, -1)
        return torch.addcmul(beta, normal, 1 + gamma)


class Attention(nn.Module):
    """Projections of multi-head attention; the state dict keeps q, k and v apart, the forward joins them."""

    def __init__(self, embed_dim: int, num_heads: int, condition_dim: int | None) -> None:
        super().__init__()
        self.num_heads, self.head = num_heads, embed_dim // num_heads
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.k_proj = nn.Linear(embed_dim, embed_dim)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        self.norm = Norm(embed_dim, condition_dim)

    def _joined(self) -> tuple[Tensor, Tensor]:
        parts = (self.q_proj, self.k_proj, self.v_proj)
        return torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])

    def _channels_first(self, x_btpe: Tensor) -> Tensor:
        """Queries, keys, values [B*T, 3, N, K, P]: the projection writes them that way at no cost."""
        weight, bias = self._joined()
        x_fep = x_btpe.flatten(0, 1).transpose(1, 2)
        joined = torch.baddbmm(bias[:, None], weight.expand(len(x_fep), -1, -1), x_fep)
        return joined.view(len(x_fep), 3, self.num_heads, self.head, -1)

    def _mixed(self, seen_fep: Tensor, x_btpe: Tensor) -> Tensor:
        """What the heads saw, [B*T, E, P], through the output projection: like `x_btpe`."""
        weight = self.out_proj.weight.t().expand(len(seen_fep), -1, -1)
        return torch.baddbmm(self.out_proj.bias, seen_fep.transpose(1, 2), weight).view(x_btpe.shape)


class SpatialAttention(Attention):
    """Every patch sees every patch of its frame."""

    def forward(
        self, x_btpe: Tensor, condition_bfa: Tensor | None, places_bm: Tensor | None = None
    ) -> Tensor:
        """Attention within each frame, residual, norm: [B, T, P, E].

        Args:
            x_btpe: The frames.
            condition_bfa: Their conditions.
            places_bm: Patches of the one frame to compute, not for training; none is all of them.
        """
        wanted_btme = x_btpe if places_bm is None else pick(x_btpe[:, 0], places_bm).unsqueeze(1)
        if self.head <= WIDEST and by_hand(x_btpe):
            qkv = self._channels_first(x_btpe)
            if places_bm is None:
                seen_fnkm = SmallHeads.apply(qkv)  # type: ignore[no-untyped-call]
            else:
                q, k, v = qkv.unbind(1)
                seen_fnkm = seen_by(pick_last(q, places_bm), k, v)
            mixed = self._mixed(seen_fnkm.flatten(1, 2), wanted_btme)
        else:
            x_fpe = x_btpe.flatten(0, 1)
            joined = fn.linear(x_fpe, *self._joined()).view(*x_fpe.shape[:2], 3, self.num_heads, self.head)
            q, k, v = joined.permute(2, 0, 3, 1, 4)
            if places_bm is not None:
                q = pick_last(q.transpose(2, 3), places_bm).transpose(2, 3)
            seen = fn.scaled_dot_product_attention(q, k, v).transpose(1, 2)
            mixed = self.out_proj(seen.reshape(wanted_btme.shape))
        return self.norm(wanted_btme + mixed, condition_bfa)  # type: ignore[no-any-return]


class TemporalAttention(Attention):
    """Every patch sees itself in this frame and the ones before."""

    def forward(
        self, x_btpe: Tensor, condition_bfa: Tensor | None, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Causal attention across frames, residual, norm.

        Args:
            x_btpe: The frames to compute.
            condition_bfa: Their conditions.
            past: Keys and values of the frames before them.

        Returns:
            [B, T, P, E], and keys and values [B, T', N, K, P] of all frames so far.
        """
        joined = self._channels_first(x_btpe)
        q, k, v = joined.view(*x_btpe.shape[:2], *joined.shape[1:]).unbind(2)
        if past is not None:
            k, v = torch.cat([past[0], k], 1), torch.cat([past[1], v], 1)
        seen: Tensor = CausalAttention.apply(q, k, v)  # type: ignore[no-untyped-call]
        mixed = self._mixed(seen.flatten(0, 1).flatten(1, 2).to(x_btpe.dtype), x_btpe)
        return self.norm(x_btpe + mixed, condition_bfa), (k, v)


class SwiGLU(nn.Module):
    """`w_o(silu(w_v(x)) * w_g(x))`."""

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        inner = 2 * hidden_dim // 3
        self.w_v = nn.Linear(embed_dim, inner)
        self.w_g = nn.Linear(embed_dim, inner)
        self.w_o = nn.Linear(inner, embed_dim)

    def mix(self, x: Tensor) -> Tensor:
        """[..., E] -> [..., E]."""
        if by_hand(x) and torch.is_grad_enabled():
            # a third of a block's memory, and cheap: it is computed again for the gradient
            return checkpoint(self._mix, x, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]
        return self._mix(x)

    def _mix(self, x: Tensor) -> Tensor:
        # two products, not one for both: halves of a joined one would lie apart in memory
        value, gate = linear(x, self.w_v.weight, self.w_v.bias), linear(x, self.w_g.weight, self.w_g.bias)
        return linear(fn.silu(value) * gate, self.w_o.weight, self.w_o.bias)


class FeedForward(SwiGLU):
    """A block's feed-forward part: one network for every token."""

    def __init__(self, embed_dim: int, hidden_dim: int, condition_dim: int | None) -> None:
        super().__init__(embed_dim, hidden_dim)
        self.norm = Norm(embed_dim, condition_dim)

    def forward(self, x_btpe: Tensor, condition_bfa: Tensor | None) -> tuple[Tensor, None]:
        """Network, residual, norm: [B, T, P, E], and no auxiliary loss."""
        return self.norm(x_btpe + self.mix(x_btpe), condition_bfa), None
