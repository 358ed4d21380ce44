"""What holds for every model: causality, gradients for all, mixed precision, and the history's columns."""

from __future__ import annotations

import math

import pytest
import torch

from shared.events import STAGES, Stage
from shared.worldmodel.build import build_model
from shared.worldmodel.frames import to_float, to_uint8
from shared.worldmodel.latent_actions import information
from shared.worldmodel.masking import strangers
from shared.worldmodel.optim import make_optimizer
from shared.worldmodel.quantizer import FiniteScalarQuantizer
from shared.worldmodel.statistics import action_statistics, distinct
from shared.worldmodel.transformer import Transformer


def test_frames_come_back_from_model_input_unchanged() -> None:
    frames = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 1, 16, 16, 3)
    floats = to_float(frames)
    assert floats.shape == (1, 1, 3, 16, 16)
    assert (floats.min(), floats.max()) == (-1, 1)
    assert torch.equal(to_uint8(floats), frames)
    assert torch.equal(to_uint8(floats * 2), to_uint8((floats * 2).clamp(-1, 1)))


@pytest.mark.parametrize(("bins", "dims"), [(2, 3), (3, 4), (4, 5)])
def test_every_code_has_its_latents_and_comes_back(bins: int, dims: int) -> None:
    quantizer = FiniteScalarQuantizer(dims, bins)
    codes = torch.arange(bins**dims)
    latents = quantizer.latents(codes)
    assert latents.unique().tolist() == pytest.approx([-1 + 2 * i / (bins - 1) for i in range(bins)])
    assert torch.equal(quantizer.indices(latents), codes)
    assert quantizer.latents(torch.tensor(1))[0] > quantizer.latents(torch.tensor(0))[0], "lowest digit first"


def test_the_quantizer_passes_the_gradient_of_tanh_straight_through() -> None:
    z = torch.tensor([0.3, -0.7, 0.0, 2.0], requires_grad=True)
    quantized = FiniteScalarQuantizer(4, 2)(z)
    assert quantized.tolist() == [1, -1, -1, 1], "half rounds to even"
    quantized.sum().backward()
    torch.testing.assert_close(z.grad, 1 - torch.tanh(z.detach()) ** 2)


@pytest.mark.parametrize("conditioned", [True, False])
def test_a_frame_depends_on_earlier_frames_and_its_own_action_alone(conditioned: bool) -> None:
    torch.manual_seed(0)
    transformer = Transformer(24, 2, 36, 2, condition_dim=2 if conditioned else None)
    x, bits = torch.randn(1, 4, 9, 24), torch.randn(1, 3, 2) if conditioned else None
    whole = transformer(x, bits).x_btpe
    changed = x.clone()
    changed[:, 2:] += 1
    other = None if bits is None else bits.clone()
    if other is not None:
        other[:, 1:] += 1
    after = transformer(changed, other).x_btpe
    torch.testing.assert_close(after[:, :2], whole[:, :2], rtol=0, atol=1e-6)
    assert (after[:, 2:] - whole[:, 2:]).abs().amax((0, 2, 3)).min() > 1e-3


def test_frames_computed_one_by_one_are_those_computed_together() -> None:
    torch.manual_seed(0)
    transformer = Transformer(24, 2, 36, 2, condition_dim=2)
    x, bits = torch.randn(2, 5, 9, 24), torch.randn(2, 4, 2)
    whole = transformer(x, bits).x_btpe
    start = transformer(x[:, :2], bits[:, :1])
    middle = transformer(x[:, 2:3], bits[:, 1:2], start.cache)
    end = transformer(x[:, 3:], bits[:, 2:], middle.cache)
    parts = torch.cat([start.x_btpe, middle.x_btpe, end.x_btpe], 1)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frames", [2, 4])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_moe": True},
        {"dynamics_masking": "tinyworlds"},
        {"use_actions": False},
        {"latent_balance_weight": 0},
        {"context_noise": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("stage", STAGES)
def test_every_trained_parameter_gets_a_gradient_in_every_update(
    tiny, stage: Stage, changes: dict[str, object], frames: int
) -> None:
    config = tiny.config(**changes)
    model = build_model(stage, config)
    for seed in range(4):  # some of which drop a frame
        model.zero_grad()
        output = tiny.forward(model, stage, seed, frames=frames, actions=config.use_actions)
        assert output.loss.isfinite()
        output.loss.backward()
        missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert missing == []
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    if stage == "dynamics" and not config.use_actions:
        assert frozen
        assert all(".to_gamma_beta." in name for name in frozen)
    else:
        assert frozen == []


@pytest.mark.parametrize("changes", [{}, {"use_moe": True}], ids=str)
@pytest.mark.parametrize("stage", STAGES)
def test_mixed_precision_trains_to_about_the_same_loss(
    tiny, stage: Stage, changes: dict[str, object]
) -> None:
    config = tiny.config(**changes)
    model = build_model(stage, config)
    optimizer = make_optimizer(model, config)
    exact = tiny.forward(model, stage, 1).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = tiny.forward(model, stage, 1)
    assert mixed.loss.dtype == torch.float32
    assert mixed.loss.item() == pytest.approx(exact.item(), rel=0.05)
    mixed.loss.backward()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())
    optimizer.step()


@pytest.mark.parametrize("stage", STAGES)
def test_models_learn_a_batch_by_heart(tiny, stage: Stage) -> None:
    config = tiny.config(latent_balance_weight=0.0, dynamics_masking="tinyworlds")
    model = build_model(stage, config)
    optimizer = make_optimizer(model, config)
    losses = []
    for _ in range(25):
        loss = tiny.forward(model, stage, 3).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_metrics_carry_the_columns_of_the_history(tiny) -> None:
    columns = {}
    for stage in STAGES:
        output = tiny.forward(build_model(stage, tiny.config()), stage, 0)
        columns[stage] = set(output.metrics)
        assert all(value.shape == () and not value.requires_grad for value in output.metrics.values())
    assert columns == {
        "video_tokenizer": {"train/codebook_usage"},
        "latent_actions": {
            "train/loss",
            "action_entropy",
            "unique_actions",
            "latent_actions/codebook_usage",
            "latent_actions/information",
        },
        "dynamics": {"action_entropy", "unique_actions"},
    }


def test_statistics_do_not_wait_for_the_device() -> None:
    codes = torch.zeros(2, 3, dtype=torch.int64, device="meta")  # knows shapes alone: reading a value fails
    assert distinct(codes).shape == ()
    assert all(value.shape == () for value in action_statistics(codes, 4).values())


def test_action_statistics_are_those_of_the_batch() -> None:
    found = action_statistics(torch.tensor([[0, 0, 3], [3, 0, 0]]), 4)
    assert found["unique_actions"] == 2
    assert found["action_entropy"].item() == pytest.approx(
        -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3))
    )
    collapsed = action_statistics(torch.tensor([1, 1, 1]), 4)
    assert (collapsed["unique_actions"], collapsed["action_entropy"]) == (1, 0)
    assert distinct(torch.tensor([[5, 1], [1, 9]])) == 3


def test_a_code_tells_most_when_all_are_used_and_each_transition_is_sure() -> None:
    sure = 20 * torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]]).view(1, 4, 2)
    assert information(sure).item() == pytest.approx(math.log(4), abs=0.2), "all four, each surely"
    assert information(sure[:, :2]).item() == pytest.approx(math.log(2), abs=0.1), "two of four"
    assert information(20 * torch.ones(1, 4, 2)).item() == pytest.approx(0, abs=1e-6), "one for all"
    agreeing = 20 * torch.tensor([[[1.0, 1], [-1, -1]]])
    assert information(agreeing).item() == pytest.approx(math.log(2), abs=0.1), "bits that always agree"
    assert information(0.01 * sure / 20).item() == pytest.approx(0, abs=1e-2), "unsure of all"


def test_the_history_keeps_the_loss_of_tinyworlds_whatever_is_minimized_beside_it(tiny) -> None:
    weighed, plain = (
        tiny.forward(
            build_model("latent_actions", tiny.config(latent_balance_weight=weight)), "latent_actions", 0
        )
        for weight in (0.5, 0.0)
    )
    assert torch.equal(weighed.metrics["train/loss"], plain.loss)
    told = weighed.metrics["latent_actions/information"]
    torch.testing.assert_close(weighed.loss, plain.loss - 0.5 * told)


def test_strangers_come_into_the_context_alone_and_from_the_same_place() -> None:
    tokens = torch.arange(3).view(3, 1, 1) * 1000 + torch.arange(4 * 9).view(1, 4, 9)
    mixed = strangers(tokens, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(mixed[:, -1], tokens[:, -1])
    assert torch.equal(mixed % 1000, tokens % 1000), "same frame, same patch"
    assert not torch.equal(mixed, tokens)
    assert torch.equal(strangers(tokens, 0.0, torch.Generator().manual_seed(0)), tokens)
    assert torch.equal(strangers(tokens, 1.0, torch.Generator().manual_seed(0)), mixed)


def test_strangers_in_the_context_change_what_is_seen_but_never_what_is_asked(tiny) -> None:
    config = tiny.config(context_noise=1.0)
    model = build_model("dynamics", config)
    asked: list[torch.Tensor] = []
    loss = model.loss

    def listening(indices: torch.Tensor, bits: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor:
        asked.append(indices[mask])
        return loss(indices, bits, mask)

    model.loss = listening  # type: ignore[method-assign]
    batch = torch.randint(27, (4, 4, 16), generator=torch.Generator().manual_seed(0))
    noisy = model(batch, None, generator=torch.Generator().manual_seed(1)).loss
    model.context_noise = 0.0
    clean = model(batch, None, generator=torch.Generator().manual_seed(1)).loss
    assert torch.equal(*asked)
    assert noisy != clean


@pytest.mark.parametrize("frames", [2, 3, 4])
def test_frames_after_the_first_are_hidden_from_the_action_decoder(tiny, frames: int) -> None:
    model = build_model("latent_actions", tiny.config())
    batch = torch.rand(2, frames, 3, 16, 16) * 2 - 1
    bits = model.bits(model.actions(batch))
    changed = batch.clone()
    changed[:, 1:] = 0
    seen = model.decoder(batch[:, :-1], bits, masked=True)
    assert seen.shape == (2, frames - 1, 3, 16, 16)
    assert torch.equal(seen, model.decoder(changed[:, :-1], bits, masked=True))
    assert torch.equal(model.predict(batch, bits), model.predict(batch, bits))
