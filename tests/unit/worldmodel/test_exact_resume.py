"""An update is a pure function of weights, optimizer state and seed; a checkpoint loses none of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from shared.config import StageConfig
from shared.events import STAGES, Schedule, Stage
from shared.worldmodel.build import Model, build_model, load_weights
from shared.worldmodel.checkpoints import load_checkpoint, save_checkpoint
from shared.worldmodel.optim import make_optimizer, restore_optimizer

SCHEDULE = Schedule(peak=1e-2, start_step=0, end_step=6)


def weights_equal(one: Model, other: Model) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def fresh(stage: Stage, config: StageConfig) -> tuple[Model, torch.optim.Optimizer]:
    model = build_model(stage, config)
    return model, make_optimizer(model, config)


@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": "muon"}, {"use_moe": True}], ids=["adamw", "muon", "moe"]
)
@pytest.mark.parametrize("stage", STAGES)
def test_three_updates_a_checkpoint_and_three_more_equal_six_at_once(
    tiny, tmp_path: Path, stage: Stage, changes: dict[str, object]
) -> None:
    config = tiny.config(**changes)
    whole, optimizer = fresh(stage, config)
    losses = [tiny.update(whole, optimizer, stage, i) for i in range(6)]

    first, optimizer = fresh(stage, config)
    for i in range(3):
        assert tiny.update(first, optimizer, stage, i) == losses[i]
    directory = tmp_path / f"{stage}_step_2"
    save_checkpoint(
        directory, stage=stage, model=first, optimizer=optimizer, step=3, config=config, schedule=SCHEDULE
    )

    checkpoint = load_checkpoint(directory)
    second, optimizer = fresh(stage, config.model_copy(update={"seed": 1}))
    assert not weights_equal(first, second)
    load_weights(second, checkpoint)
    restore_optimizer(optimizer, checkpoint.optimizer)
    assert weights_equal(first, second)
    assert [tiny.update(second, optimizer, stage, i) for i in range(3, 6)] == losses[3:]
    assert weights_equal(second, whole)


@pytest.mark.parametrize("stage", STAGES)
def test_saving_does_not_disturb_training(tiny, tmp_path: Path, stage: Stage) -> None:
    config = tiny.config()
    one, one_optimizer = fresh(stage, config)
    other, other_optimizer = fresh(stage, config)
    for i in range(4):
        tiny.update(one, one_optimizer, stage, i)
        tiny.update(other, other_optimizer, stage, i)
        save_checkpoint(
            tmp_path / f"{stage}_step_{i}",
            stage=stage,
            model=other,
            optimizer=other_optimizer,
            step=i + 1,
            config=config,
            schedule=SCHEDULE,
        )
    assert weights_equal(one, other)


def test_weights_come_from_the_seed_alone(tiny) -> None:
    config = tiny.config()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = build_model("dynamics", config)
    torch.rand(3)
    other = build_model("dynamics", config)
    assert weights_equal(one, other)
    torch.set_rng_state(before)
    build_model("dynamics", config)
    assert torch.equal(before, torch.get_rng_state())
    assert not weights_equal(one, build_model("dynamics", tiny.config(seed=8)))
