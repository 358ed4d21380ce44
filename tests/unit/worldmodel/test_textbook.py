"""What the benchmark compares us with computes the same: losses, gradients, decoded frames."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import training_worker
from benchmarks.textbook import TEXTBOOK, as_textbook, textbook_decode
from benchmarks.training import PONG
from benchmarks.training_worker import Bench, Spec
from shared.events import STAGES, Stage
from shared.worldmodel.build import build_model
from shared.worldmodel.decoding import decode
from shared.worldmodel.dynamics import Dynamics
from shared.worldmodel.video_tokenizer import VideoTokenizer


@pytest.mark.parametrize(
    "changes",
    [{"num_heads": 2}, {"num_heads": 4}, {"use_moe": True, "dynamics_masking": "tinyworlds"}],
    ids=str,
)
@pytest.mark.parametrize("stage", STAGES)
def test_textbook_mode_and_ours_agree_in_loss_and_gradients(
    tiny, stage: Stage, changes: dict[str, object]
) -> None:
    model = build_model(stage, tiny.config(**changes))
    textbook = as_textbook(copy.deepcopy(model))
    assert list(textbook.state_dict()) == list(model.state_dict())
    ours, theirs = (tiny.forward(each, stage, 5) for each in (model, textbook))
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=1e-6)
    ours.loss.backward()
    theirs.loss.backward()
    for (name, parameter), other in zip(model.named_parameters(), textbook.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_nothing_of_ours_is_left_in_textbook_mode(tiny) -> None:
    for stage in STAGES:
        model = as_textbook(build_model(stage, tiny.config(use_moe=True)))
        assert not {type(module) for module in model.modules()} & TEXTBOOK.keys()


def test_the_textbook_sampler_decodes_the_same_frames(
    golden: Mapping[str, Tensor], tokenizer: VideoTokenizer, dynamics: Dynamics
) -> None:
    context, codes = golden["frames"][:, :2], torch.tensor([[0, 1], [2, 3]])
    ours = decode(dynamics, tokenizer, context, codes, horizon=1, steps=8, temperature=0)
    as_textbook(dynamics)
    as_textbook(tokenizer)
    textbook = textbook_decode(dynamics, tokenizer, context, codes, steps=8)
    torch.testing.assert_close(ours, textbook, rtol=0, atol=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_both_modes_of_the_benchmark_train_the_same_curve(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: Stage
) -> None:
    monkeypatch.setattr(training_worker, "WINDOWS", 4)
    sizes = {"patch_size": 16, "embed_dim": 16, "num_heads": 4, "hidden_dim": 16, "num_blocks": 1}
    curves = {}
    for mode in ("textbook", "ours"):
        bench = Bench(Spec(mode, stage, "cpu", 1, str(PONG), str(tmp_path), sizes))
        assert bench.start(3) == {"problems": []}
        told = bench.updates(0, 3, 3)
        assert len(told["seconds"]) == len(told["cpu"]) == 3
        curves[mode] = told["losses"]
        assert bench.flops()["flops"] > 0
        assert bench.memory()["resident"] > 0
    assert curves["ours"] == pytest.approx(curves["textbook"], rel=1e-5)


def test_both_modes_of_the_benchmark_decode_the_same_frame(tmp_path: Path) -> None:
    sizes = {"patch_size": 16, "embed_dim": 16, "num_heads": 4, "hidden_dim": 16, "num_blocks": 1}
    frames = [
        Bench(Spec(mode, "decode", "cpu", 1, str(PONG), str(tmp_path), sizes)).decode(2, 1)["frame"]
        for mode in ("textbook", "ours")
    ]
    torch.testing.assert_close(*(torch.tensor(frame) for frame in frames), rtol=0, atol=1e-4)
