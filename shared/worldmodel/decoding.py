"""Decoding: the frames that follow a context, given the actions.

Shapes: B batch, Tc context frames, H new frames (horizon), P patches of a frame, Q = H * P tokens to decide,
M of them still hidden, V tokens, L latent dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shared.worldmodel.dynamics import Dynamics
from shared.worldmodel.layers import pick
from shared.worldmodel.video_tokenizer import VideoTokenizer

STEEPNESS = 5.0
FEWEST = 16
"""At least one in this many of all tokens is decided per step."""
LOG2_E = math.log2(math.e)
"""`exp2` costs a quarter of `exp`."""


def decided_per_step(tokens: int, steps: int) -> list[int]:
    """How many of the hidden tokens each step decides; after the last step none is hidden."""
    counts: list[int] = []
    for m in range(steps):
        done = sum(counts)
        if done == tokens:
            break
        due = tokens if m == steps - 1 else tokens * math.expm1(STEEPNESS * m / steps) / math.expm1(STEEPNESS)
        count = max(tokens // FEWEST, 1, min(math.ceil(due) - done, tokens - done))
        counts.append(min(count, tokens - done))
    return counts


@torch.inference_mode()
def decode(
    dynamics: Dynamics,
    tokenizer: VideoTokenizer,
    context_frames: Tensor,
    codes: Tensor | None,
    *,
    horizon: int,
    steps: int,
    temperature: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Generate the frames after a context.

    Args:
        dynamics: In eval mode.
        tokenizer: In eval mode, on the same device.
        context_frames: [B, Tc, 3, H, W] in [-1, 1].
        codes: Action codes of every transition of the window, [B, Tc - 1 + horizon]; none without actions.
        horizon: New frames.
        steps: Decoding steps.
        temperature: 0 takes the best token, above it samples.
        generator: For sampling, on the CPU.

    Returns:
        [B, horizon, 3, H, W] clamped to [-1, 1].
    """
    indices_btp = tokenizer.tokenize(context_frames)
    bits_bta = None if codes is None else dynamics.bits(codes)
    new_btp = decode_tokens(
        dynamics,
        indices_btp,
        bits_bta,
        horizon=horizon,
        steps=steps,
        temperature=temperature,
        generator=generator,
    )
    window = tokenizer.decode(tokenizer.latents(torch.cat([indices_btp, new_btp], 1)))
    return window[:, -horizon:].clamp(-1, 1)


@torch.inference_mode()
def decode_tokens(
    dynamics: Dynamics,
    indices_btp: Tensor,
    bits_bta: Tensor | None,
    *,
    horizon: int,
    steps: int,
    temperature: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The tokens of the frames after a context; arguments as in `decode`.

    Args:
        dynamics: In eval mode.
        indices_btp: The context's tokens.
        bits_bta: Actions of every transition of the window, [B, Tc - 1 + horizon, A].
        horizon: New frames.
        steps: Decoding steps.
        temperature: 0 takes the best token, above it samples.
        generator: For sampling.

    Returns:
        int64 [B, horizon, P].
    """
    batch, context, patches = indices_btp.shape
    total = horizon * patches
    before = None if bits_bta is None else bits_bta[:, : context - 1]
    after = None if bits_bta is None else bits_bta[:, context - 1 :]
    # nothing in a context frame depends on later frames: its keys and values hold for all steps
    past = dynamics.hidden(dynamics.latents(indices_btp), before).cache

    hidden_bm = torch.arange(total, device=indices_btp.device).expand(batch, total)
    tokens_bq = torch.zeros(batch, total, dtype=torch.int64, device=indices_btp.device)
    latents_bql = dynamics.mask_token.view(1, 1, -1).repeat(batch, total, 1)
    for count in decided_per_step(total, steps):
        latents_bhpl = latents_bql.view(batch, horizon, patches, -1)
        if horizon == 1:
            x_bme = dynamics.hidden(latents_bhpl, after, past, hidden_bm).x_btpe.squeeze(1)
        else:
            x_bme = pick(dynamics.hidden(latents_bhpl, after, past).x_btpe.flatten(1, 2), hidden_bm)
        logits_bmv = dynamics.output_mlp(x_bme).float()
        if temperature > 0:
            logits_bmv = logits_bmv / temperature
        # one over the largest probability: the smaller, the more confident
        doubt_bm = (logits_bmv - logits_bmv.amax(-1, keepdim=True)).mul_(LOG2_E).exp2_().sum(-1)
        chosen = doubt_bm.topk(count, 1, largest=False).indices
        logits_bcv = pick(logits_bmv, chosen)
        decided = sample_tokens(logits_bcv, generator) if temperature > 0 else logits_bcv.argmax(-1)
        places = hidden_bm.gather(1, chosen)
        tokens_bq = tokens_bq.scatter(1, places, decided)
        latents_bql = latents_bql.scatter(
            1, places.unsqueeze(-1).expand(-1, -1, latents_bql.shape[-1]), dynamics.latents(decided)
        )
        left = torch.ones_like(hidden_bm, dtype=torch.bool).scatter(1, chosen, value=False)
        hidden_bm = hidden_bm[left].view(batch, -1)
    return tokens_bq.view(batch, horizon, patches)


def sample_tokens(logits_bmv: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw a token each, one random number per token: the first whose cumulative probability exceeds it."""
    draw = torch.rand(logits_bmv.shape[:-1], generator=generator).to(logits_bmv.device).unsqueeze(-1)
    cumulative = logits_bmv.softmax(-1).cumsum(-1)
    found = torch.searchsorted(cumulative, draw * cumulative[..., -1:], right=True).squeeze(-1)
    return found.clamp_(max=logits_bmv.shape[-1] - 1)
