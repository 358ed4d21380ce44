"""Schedule segments, parameter groups, Muon."""

from __future__ import annotations

import pytest
import torch

from shared.events import STAGES, Schedule, Stage
from shared.worldmodel.build import build_model
from shared.worldmodel.optim import MuonWithAdamW, learning_rate, make_optimizer


def test_a_later_segment_starts_its_own_warm_up() -> None:
    first = Schedule(peak=1e-3, start_step=0, end_step=200)
    later = Schedule(peak=1e-3, start_step=1000, end_step=1200)
    assert [learning_rate(later, 1000 + i) for i in range(201)] == [
        learning_rate(first, i) for i in range(201)
    ]
    assert learning_rate(first, 0) == 0
    assert learning_rate(first, 10) == 1e-3
    assert learning_rate(first, 200) == pytest.approx(1e-5)
    assert learning_rate(first, 10_000) == pytest.approx(1e-5), "an overrun stays at the end"


def test_a_retuned_peak_only_scales_the_schedule() -> None:
    before = Schedule(peak=1e-3, start_step=0, end_step=500)
    after = before.model_copy(update={"peak": 5e-4})
    assert all(learning_rate(after, i) == pytest.approx(learning_rate(before, i) / 2) for i in range(501))


@pytest.mark.parametrize("end", [1, 2, 19])
def test_segments_too_short_for_a_warm_up_have_a_rate(end: int) -> None:
    schedule = Schedule(peak=1.0, start_step=0, end_step=end)
    assert learning_rate(schedule, 0) == 1.0


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_each_parameter_is_in_one_group_and_decays_only_as_a_matrix(
    tiny, stage: Stage, optimizer: str
) -> None:
    config = tiny.config(optimizer=optimizer)
    model = build_model(stage, config)
    groups = make_optimizer(model, config).param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert sorted(names[p] for group in groups for p in group["params"]) == sorted(names.values())
    for group in groups:
        for parameter in group["params"]:
            plain = parameter.ndim == 1 or "norm" in names[parameter] or names[parameter].endswith("bias")
            assert group["weight_decay"] == (0 if plain else 0.01), names[parameter]


def test_muon_moves_the_matrices_inside_the_blocks_and_adamw_the_rest(tiny) -> None:
    config = tiny.config(optimizer="muon")
    model = build_model("dynamics", config)
    optimizer = make_optimizer(model, config)
    assert isinstance(optimizer, MuonWithAdamW)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    tiny.update(model, optimizer, "dynamics", 0)
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        kept = optimizer.state[parameter].keys()
        hidden = ".blocks." in name and parameter.ndim == 2 and "norm" not in name
        assert kept == ({"momentum_buffer"} if hidden else {"step", "exp_avg", "exp_avg_sq"}), name
