"""Decoding: how many tokens a step decides, sampling, batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared.worldmodel.build import build_model
from shared.worldmodel.decoding import decided_per_step, decode, decode_tokens, sample_tokens
from shared.worldmodel.dynamics import Dynamics
from shared.worldmodel.video_tokenizer import VideoTokenizer


@given(tokens=st.integers(1, 600), steps=st.integers(1, 40))
def test_every_token_is_decided_at_the_last_step_at_the_latest(tokens: int, steps: int) -> None:
    counts = decided_per_step(tokens, steps)
    assert sum(counts) == tokens
    assert len(counts) <= steps
    assert min(counts) >= 1
    assert all(count >= max(tokens // 16, 1) for count in counts[:-1])


def test_the_floor_rules_until_the_last_step() -> None:
    assert decided_per_step(64, 4) == [4, 4, 4, 52]
    assert decided_per_step(64, 16) == [4] * 16
    assert decided_per_step(64, 100) == [4] * 16
    assert decided_per_step(5, 1) == [5]


@pytest.fixture
def models(tiny) -> tuple[VideoTokenizer, Dynamics]:
    return build_model("video_tokenizer", tiny.config()).eval(), build_model("dynamics", tiny.config()).eval()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_new_frames_are_pixels_and_the_seed_decides_them(
    models: tuple[VideoTokenizer, Dynamics], temperature: float
) -> None:
    tokenizer, dynamics = models
    context = torch.rand(3, 2, 3, 16, 16) * 2 - 1
    codes = torch.randint(8, (3, 3))

    def frames(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return decode(
            dynamics,
            tokenizer,
            context,
            codes,
            horizon=2,
            steps=5,
            temperature=temperature,
            generator=generator,
        )

    one = frames(1)
    assert one.shape == (3, 2, 3, 16, 16)
    assert one.abs().max() <= 1
    assert not one.requires_grad
    assert torch.equal(one, frames(1))
    assert torch.equal(one, frames(2)) == (temperature == 0)


def test_a_batch_is_decoded_as_its_samples_are(models: tuple[VideoTokenizer, Dynamics]) -> None:
    _, dynamics = models
    indices = torch.randint(27, (4, 2, 16))
    bits = dynamics.bits(torch.randint(8, (4, 2)))
    together = decode_tokens(dynamics, indices, bits, horizon=1, steps=6, temperature=0)
    for i in range(4):
        alone = decode_tokens(
            dynamics, indices[i : i + 1], bits[i : i + 1], horizon=1, steps=6, temperature=0
        )
        assert torch.equal(together[i : i + 1], alone)


@pytest.mark.parametrize("heads", [4, 1], ids=["small heads", "one of 16"])
@pytest.mark.parametrize("use_moe", [False, True])
def test_wanted_patches_are_what_they_are_among_all(tiny, heads: int, use_moe: bool) -> None:
    config = tiny.config(embed_dim=16, num_heads=heads, use_moe=use_moe, num_experts=2, top_k_experts=1)
    dynamics = build_model("dynamics", config).eval()
    indices = torch.randint(27, (3, 2, 16))
    bits = dynamics.bits(torch.randint(8, (3, 2)))
    wanted = torch.stack([torch.randperm(16)[:5] for _ in range(3)])
    with torch.inference_mode():
        past = dynamics.hidden(dynamics.latents(indices), bits[:, :1]).cache
        latents = dynamics.latents(torch.randint(27, (3, 1, 16)))
        everything = dynamics.hidden(latents, bits[:, 1:], past).x_btpe
        some = dynamics.hidden(latents, bits[:, 1:], past, wanted).x_btpe
    for sample in range(3):
        torch.testing.assert_close(some[sample, 0], everything[sample, 0, wanted[sample]])


def test_one_context_frame_and_no_actions_are_enough(models: tuple[VideoTokenizer, Dynamics]) -> None:
    tokenizer, dynamics = models
    context = torch.rand(2, 1, 3, 16, 16) * 2 - 1
    frames = decode(dynamics, tokenizer, context, None, horizon=1, steps=3, temperature=0)
    assert frames.shape == (2, 1, 3, 16, 16)


def test_sampled_tokens_follow_the_probabilities() -> None:
    chances = torch.tensor([0.5, 0.0, 0.2, 0.3])
    drawn = sample_tokens(chances.log().expand(1, 20000, 4), torch.Generator().manual_seed(0))
    share = torch.bincount(drawn.flatten(), minlength=4) / 20000
    torch.testing.assert_close(share, chances, rtol=0, atol=0.02)
    assert share[1] == 0
