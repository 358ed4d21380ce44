"""Every value that the original TinyWorlds computed, computed by ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shared.config import StageConfig
from shared.events import Schedule
from shared.worldmodel.build import model_of
from shared.worldmodel.checkpoints import load_checkpoint
from shared.worldmodel.decoding import decode, decode_tokens
from shared.worldmodel.dynamics import Dynamics
from shared.worldmodel.latent_actions import LatentActions, prediction_loss
from shared.worldmodel.optim import learning_rate, make_optimizer, restore_optimizer
from shared.worldmodel.safe_load import load_file
from shared.worldmodel.video_tokenizer import VideoTokenizer

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
Golden = Mapping[str, Tensor]


def rows(frames: Tensor) -> Tensor:
    """The rows of pictures that the vectors keep."""
    return frames[..., ::3, :]


def patches(logits: Tensor) -> Tensor:
    """The patches of logits that the vectors keep."""
    return logits[:, :, ::7]


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.detach().double(), expected.double(), rtol=0, atol=1e-4)


def near(found: list[float], expected: Tensor) -> None:
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=1e-4, atol=0)


def test_the_tokenizer_computes_what_the_original_computes(golden: Golden, tokenizer: VideoTokenizer) -> None:
    frames = golden["frames"]
    same(tokenizer.encoder(frames), golden["vt_prequant"])
    latents = tokenizer.encode(frames)
    same(latents, golden["vt_quantized"])
    assert torch.equal(tokenizer.tokenize(frames), golden["vt_indices"].long())
    assert torch.equal(tokenizer.latents(golden["vt_indices"].long()), latents)
    same(rows(tokenizer.decode(latents)), golden["vt_recon"])
    same(tokenizer(frames).loss, golden["vt_loss"])


def test_latent_actions_are_what_the_original_finds(golden: Golden, latent_actions: LatentActions) -> None:
    frames = golden["frames"]
    raw = latent_actions.encoder(frames)
    same(raw, golden["lam_prequant"])
    codes = latent_actions.actions(frames)
    assert torch.equal(codes, golden["lam_indices"].long())
    same(latent_actions.bits(codes), golden["lam_quantized"])
    predicted = latent_actions.predict(frames, latent_actions.bits(codes))
    same(rows(predicted), golden["lam_pred"])
    same(prediction_loss(predicted, frames, raw), golden["lam_loss"])


def test_latent_actions_train_on_the_originals_loss(golden: Golden, latent_actions: LatentActions) -> None:
    frames = golden["frames"]
    masked = latent_actions.decoder(frames[:, :-1], golden["lam_quantized"], masked=True)
    same(rows(masked), golden["lam_train_pred"])
    latent_actions.balance_weight = 0.0
    same(latent_actions(frames).loss, golden["lam_train_loss"])


def test_dynamics_scores_tokens_as_the_original_does(golden: Golden, dynamics: Dynamics) -> None:
    latents, bits = golden["vt_quantized"], golden["lam_quantized"]
    same(patches(dynamics.logits(latents, bits)), golden["dyn_logits"])
    same(patches(dynamics.logits(latents, None)), golden["dyn_logits_unconditioned"])
    loss = dynamics.loss(golden["vt_indices"].long(), bits, golden["dyn_train_mask"])
    same(loss, golden["dyn_train_loss"])


@pytest.fixture
def experts(tinyworlds: Mapping[str, Path]) -> Dynamics:
    weights = load_file(GOLDEN / "moe_dynamics" / "model_state_dict.pt")
    model = model_of(replace(load_checkpoint(tinyworlds["dynamics"]), model=weights))
    assert isinstance(model, Dynamics)
    return model


def test_the_mixture_of_experts_is_the_originals(golden: Golden, experts: Dynamics) -> None:
    model = experts
    latents, bits, mask = golden["vt_quantized"], golden["lam_quantized"], golden["moe_train_mask"]
    same(patches(model.logits(latents, bits)), golden["moe_logits"])
    hidden = model.hidden(torch.where(mask.unsqueeze(-1), model.mask_token, latents), bits)
    assert hidden.auxiliary is not None
    same(hidden.auxiliary, golden["moe_aux_loss"])
    loss = model.loss(golden["vt_indices"].long(), bits, mask)
    same(loss, golden["moe_train_loss"] + golden["moe_aux_loss"])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_originals_experts_learn_and_are_balanced(golden: Golden, experts: Dynamics, kind: str) -> None:
    tokens, bits, mask = golden["vt_indices"].long(), golden["lam_quantized"], golden["moe_train_mask"]
    optimizer = make_optimizer(experts, StageConfig(learning_rate=3e-3, optimizer=kind))
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = experts.loss(tokens, bits, mask)
        loss.backward()
        losses.append(loss.item())
        if len(losses) == 1:
            idle = [name for name, p in experts.named_parameters() if p.grad is None or not p.grad.any()]
            # as the original left it, one of the eight experts gets no token of these frames
            assert {name.partition(".w_")[0] for name in idle} == {"transformer.blocks.0.ffn.experts.3"}
        optimizer.step()
    near(losses[:1], golden["moe_train_loss"][None] + golden["moe_aux_loss"])
    assert losses == sorted(losses, reverse=True)


def test_the_originals_experts_decode(golden: Golden, tokenizer: VideoTokenizer, experts: Dynamics) -> None:
    before, codes = tokenizer.tokenize(golden["frames"][:, :2]), torch.tensor([[0, 1, 3], [2, 2, 0]])
    new = decode_tokens(experts, before, experts.bits(codes), horizon=2, steps=4, temperature=0)
    assert new.shape == (2, 2, before.shape[-1])
    again = decode_tokens(experts, before[1:], experts.bits(codes[1:]), horizon=2, steps=4, temperature=0)
    assert torch.equal(new[1:], again), "a clip decodes alone as it does in a batch"


@pytest.mark.parametrize("steps", [4, 16])
@pytest.mark.parametrize("horizon", [1, 2])
def test_decoding_decides_as_the_original_does(
    golden: Golden, tokenizer: VideoTokenizer, dynamics: Dynamics, horizon: int, steps: int
) -> None:
    context, name = golden["frames"][:1, :2], f"decode_h{horizon}_s{steps}"
    codes, before = golden[f"{name}_actions"], tokenizer.tokenize(context)
    new = decode_tokens(dynamics, before, dynamics.bits(codes), horizon=horizon, steps=steps, temperature=0)
    assert torch.equal(torch.cat([before, new], 1), golden[f"{name}_indices"].long())
    frames = decode(dynamics, tokenizer, context, codes, horizon=horizon, steps=steps, temperature=0)
    same(rows(frames), golden[f"{name}_frames"])


def test_the_schedule_is_the_originals(golden: Golden) -> None:
    schedule = Schedule(peak=1.0, start_step=0, end_step=1000)
    found = [learning_rate(schedule, i) for i in range(1001)]
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64), golden["cosine_1000"], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(("name", "steps", "clip"), [("step10", 10, 0.005), ("resume3", 3, 1.0)])
def test_updates_are_the_originals(
    golden: Golden,
    tinyworlds: Mapping[str, Path],
    tokenizer: VideoTokenizer,
    name: str,
    steps: int,
    clip: float,
) -> None:
    optimizer = make_optimizer(tokenizer, StageConfig(learning_rate=1e-3))
    if name == "resume3":
        restore_optimizer(optimizer, load_checkpoint(tinyworlds["video_tokenizer"]).optimizer)
    losses, norms = [], []
    for _ in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        optimizer.zero_grad()
        loss = tokenizer(golden["frames"]).loss
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), clip).item())
        optimizer.step()
    losses.append(tokenizer(golden["frames"]).loss.item())
    near(losses, golden[f"{name}_losses"])
    near(norms, golden[f"{name}_grad_norms"])
    weights = tokenizer.state_dict()
    after = {
        key.partition("/")[2]: value for key, value in golden.items() if key.startswith(f"{name}_after/")
    }
    assert len(after) == 4
    for parameter, expected in after.items():
        same(weights[parameter], expected)
