"""A run that TinyWorlds left goes on here: found, copied into a bundle, trained on, with its optimizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from services.commands.checkpoints.given import copy_into, read_given
from services.trainer.wire import Run
from shared.bundle import Bundle
from shared.config import TrainingConfig
from shared.events import STAGES, BundlePath, Stage
from shared.worldmodel.build import settings_of
from shared.worldmodel.checkpoints import load_checkpoint
from shared.worldmodel.seen import seen_by
from tests.integration.forks import launched
from tests.integration.stand import RUN, plan

(THEIRS,) = (Path(__file__).parents[1] / "fixtures/golden/tinyworlds_run/results").iterdir()
UPDATES = 3


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path / RUN, "2026_01_01_00_00_00_pong")


@pytest.fixture
def copies(bundle: Bundle, tmp_path: Path) -> dict[Stage, BundlePath]:
    """Where TinyWorlds' checkpoints lie in the bundle, put there as `--video-checkpoint` does."""
    training = TrainingConfig()
    given = {
        stage: read_given(str(THEIRS / stage / "checkpoints"), stage, tmp_path, training=training)
        for stage in STAGES
    }
    assert {one.peak for one in given.values()} == {2e-3}
    return copy_into(bundle, given)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_of_tinyworlds_trains_on_with_its_own_optimizer(
    stage: Stage, bundle: Bundle, copies: dict[Stage, BundlePath]
) -> None:
    before = load_checkpoint(bundle.resolve(copies[stage]))
    start, target = before.step, before.step + UPDATES
    chunk = plan(
        stage,
        start,
        target,
        attempt=1,
        resume_from=copies[stage],
        upstream={each: copies[each] for each in STAGES if each != stage},
        learning_rate=2e-3,
        n_updates=1000,
        **settings_of(before),
    )
    run = Run(
        run_id=RUN,
        run_name=bundle.run_name,
        bundle=str(bundle.root),
        plan=chunk,
        launch=1,
        resume_from=copies[stage],
        resume_step=start,
    )
    with launched(bundle.root.parent, 1) as ranks:
        finished = ranks.train(run)
    assert finished is not None
    assert (finished.reason, finished.end_step) == ("completed", target)
    (problem,) = finished.problems
    assert "was trained on PONG (no fingerprint known), and is now used with pong_frames.h5" in problem

    after = load_checkpoint(bundle.checkpoint(stage, target))
    assert [each.name for each in seen_by(after)] == ["PONG", "pong_frames.h5"]
    assert list(after.model) == list(before.model)
    moved = [name for name in before.model if not torch.equal(before.model[name], after.model[name])]
    assert len(moved) > len(before.model) * 0.8
    for number, state in before.optimizer["state"].items():
        later = after.optimizer["state"][number]
        assert later["step"] == state["step"] + UPDATES
        # of the average of squares, each update keeps 999 parts of 1000 and adds what is not negative
        assert (later["exp_avg_sq"] >= 0.999**UPDATES * state["exp_avg_sq"] * (1 - 1e-5)).all()
