"""Merging as it happens: cut at every point of it, and after a dynamics was trained on with given models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from services.commands.checkpoints.given import copy_into, read_given
from services.trainer.wire import Run
from shared.bundle import Bundle
from shared.config import TrainingConfig
from shared.errors import CheckpointError
from shared.events import STAGES, Stage
from shared.worldmodel.build import settings_of
from shared.worldmodel.checkpoints import Checkpoint, load_checkpoint
from shared.worldmodel.upstream import check_trained_together, digest_of, upstream_of
from tests.integration.forks import launched
from tests.integration.stand import RUN, plan

(THEIRS,) = (Path(__file__).parents[1] / "fixtures/golden/tinyworlds_run/results").iterdir()


def test_a_merge_that_dies_anywhere_leaves_no_run_and_the_next_one_clears_up(tmp_path: Path) -> None:
    target = tmp_path / "results/2026_01_01_00_00_00_pong"
    script = Path(__file__).with_name("die_while_merging.py")
    ended = subprocess.run(
        [sys.executable, script, THEIRS, target],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    *deaths, last = [json.loads(line) for line in ended.stdout.splitlines()]
    assert len(deaths) > 10
    for death in deaths:
        assert death["files"] == []
        assert not [name for name in death["names"] if "pong" in name], "TinyWorlds' scripts go by the name"
        assert len(death["names"]) <= 1, "what the one before left is gone"
    assert last["names"] == [target.name]
    assert len(last["files"]) == 3 * len(STAGES) + 1


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path / RUN, "2026_01_01_00_00_00_pong")


@pytest.fixture
def copies(bundle: Bundle, tmp_path: Path) -> dict[Stage, str]:
    given = {stage: read_given(str(THEIRS), stage, tmp_path, training=TrainingConfig()) for stage in STAGES}
    return copy_into(bundle, given)


def run(
    bundle: Bundle, copies: dict[Stage, str], stage: Stage, start: int, attempt: int, **changes: object
) -> Run:
    """A plan of two updates that goes on from `start`."""
    checkpoint = load_checkpoint(bundle.checkpoint(stage, start))
    resume = bundle.relative(checkpoint.directory)
    settings = {**settings_of(checkpoint), **changes}
    chunk = plan(
        stage,
        start,
        start + 2,
        attempt=attempt,
        resume_from=resume,
        upstream=copies,
        n_updates=1000,
        **settings,
    )
    return Run(
        run_id=RUN,
        run_name=bundle.run_name,
        bundle=str(bundle.root),
        plan=chunk,
        launch=1,
        resume_from=resume,
        resume_step=start,
    )


def test_a_dynamics_remembers_what_it_was_trained_with_and_a_warm_group_tells_a_problem_once(
    bundle: Bundle, copies: dict[Stage, str]
) -> None:
    with launched(bundle.root.parent, 1) as ranks:
        first = ranks.train(run(bundle, copies, "dynamics", 120, attempt=1))
        second = ranks.train(run(bundle, copies, "dynamics", 122, attempt=2))
        assert ranks.end() == [0]
    assert first is not None
    assert second is not None
    assert ["was trained on PONG" in problem for problem in first.problems] == [True]
    assert second.problems == []

    three: dict[Stage, Checkpoint] = {
        stage: load_checkpoint(bundle.resolve(path)) for stage, path in copies.items()
    }
    three["dynamics"] = load_checkpoint(bundle.checkpoint("dynamics", 124))
    told = upstream_of(three["dynamics"])
    assert {stage: (each.path, each.digest) for stage, each in told.items()} == {
        stage: (copies[stage], digest_of(three[stage].model)) for stage in STAGES[:2]
    }
    assert check_trained_together(three) == []
    state = torch.load(three["dynamics"].directory / "state.pt", weights_only=True)
    assert json.loads(json.dumps(state)) == state, "plain values, which TinyWorlds' loader reads"


def test_a_tokenizer_that_was_trained_on_since_is_refused(bundle: Bundle, copies: dict[Stage, str]) -> None:
    with launched(bundle.root.parent / "tokenizer", 1) as ranks:
        assert ranks.train(run(bundle, copies, "video_tokenizer", 120, attempt=1)) is not None
    with launched(bundle.root.parent / "dynamics", 1) as ranks:
        assert ranks.train(run(bundle, copies, "dynamics", 120, attempt=1)) is not None
    three = {stage: load_checkpoint(bundle.resolve(path)) for stage, path in copies.items()}
    three["dynamics"] = load_checkpoint(bundle.checkpoint("dynamics", 122))
    three["video_tokenizer"] = load_checkpoint(bundle.checkpoint("video_tokenizer", 122))
    with pytest.raises(CheckpointError, match=r"was not trained with .*video_tokenizer_step_121, but with"):
        check_trained_together(three)


def test_weights_that_a_plan_does_not_fit_end_the_process_with_one_sentence(
    bundle: Bundle, copies: dict[Stage, str]
) -> None:
    with launched(bundle.root.parent, 1) as ranks:
        with pytest.raises(AssertionError):
            ranks.train(run(bundle, copies, "dynamics", 120, attempt=1, use_moe=True))
        assert ranks.end() == [1]
        said = ranks.log.read_text()
    assert "Traceback" not in said
    assert "worldloop: " in said
    assert "dynamics_step_119 does not fit: " in said
    assert "Resume with the configuration it was trained with" in said
