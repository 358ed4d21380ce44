"""Masks hide what the configuration says, and the generator alone decides which."""

from __future__ import annotations

import pytest
import torch

from shared.worldmodel.build import build_model
from shared.worldmodel.masking import drops_a_frame, last_frame_mask, tinyworlds_mask


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_tinyworlds_masks_at_least_half_but_one_frame_of_every_patch() -> None:
    ratios = []
    for seed in range(200):
        mask = tinyworlds_mask(4, 4, 64, seeded(seed))
        assert mask.shape == (4, 4, 64)
        assert not mask.all(1).any(), "each patch is visible in one frame"
        ratios.append(mask.float().mean().item() * 4 / 3)
    assert min(ratios) > 0.4
    assert max(ratios) > 0.9
    assert sum(ratios) / len(ratios) == pytest.approx(0.75, abs=0.03)


def test_last_frame_masking_leaves_the_context_clean_and_hides_half_of_the_samples_whole() -> None:
    mask = last_frame_mask(4000, 4, 16, seeded())
    assert not mask[:, :-1].any()
    hidden = mask[:, -1].float().mean(1)
    assert hidden.min() >= 1 / 16, "always something to predict"
    assert (hidden == 1).float().mean().item() == pytest.approx(0.5 + 0.5 / 17, abs=0.03)
    assert hidden[hidden < 1].mean().item() == pytest.approx((0.5 - 1 / 17) / (16 / 17), abs=0.02)


def test_a_quarter_of_the_batches_loses_a_frame() -> None:
    generator = seeded()
    assert sum(drops_a_frame(generator) for _ in range(4000)) / 4000 == pytest.approx(0.25, abs=0.02)


def test_a_batch_with_nothing_hidden_has_no_loss(tiny) -> None:
    model = build_model("dynamics", tiny.config())
    loss = model.loss(
        torch.zeros(2, 4, 16, dtype=torch.int64), torch.ones(2, 3, 3), torch.zeros(2, 4, 16).bool()
    )
    assert loss.item() == 0
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_loss_looks_at_hidden_tokens_alone(tiny) -> None:
    model = build_model("dynamics", tiny.config())
    indices, bits = torch.randint(27, (2, 4, 16), generator=seeded()), torch.ones(2, 3, 3)
    mask = torch.zeros(2, 4, 16).bool()
    mask[0, 2, 5] = mask[1, 3, 1] = True
    latents = torch.where(mask.unsqueeze(-1), model.mask_token, model.latents(indices))
    chances = model.logits(latents, bits).log_softmax(-1)
    expected = -(chances[0, 2, 5, indices[0, 2, 5]] + chances[1, 3, 1, indices[1, 3, 1]]) / 2
    torch.testing.assert_close(model.loss(indices, bits, mask), expected)


def test_the_generator_alone_decides_the_loss(tiny) -> None:
    model = build_model("dynamics", tiny.config())
    indices, bits = torch.randint(27, (8, 4, 16)), torch.ones(8, 3, 3)
    losses = [model(indices, bits, generator=seeded(seed)).loss.item() for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
