"""Given checkpoints: found, compared, brought into the configuration, copied into the bundle."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from services.commands.checkpoints.given import newest_given, read_given
from services.commands.training.options import TrainOptions
from services.commands.training.start import create, prepare
from shared.bundle import Bundle
from shared.config import StageConfig, TrainingConfig
from shared.datasets.frames import FramesDataset
from shared.errors import CheckpointError, UsageError
from shared.events import STAGES, Schedule, Stage
from shared.worldmodel.checkpoints import load_checkpoint
from shared.worldmodel.safe_load import load_file
from shared.worldmodel.seen import Seen, record
from tests.untrained import save_untrained

RUN = "20260101_000000"
TRAINING = TrainingConfig()
SMALL = {
    "frame_size": 64, "patch_size": 16, "context_length": 3, "latent_dim": 3, "num_bins": 4, "n_actions": 4,
    "embed_dim": 16, "num_heads": 2, "hidden_dim": 32, "num_blocks": 1,
}  # fmt: skip


def save(root: Path, stage: Stage, *, run: str = RUN, step: int = 60, seen: str = "", **changes: Any) -> Path:
    """A checkpoint in the bundle of a run under `root`."""
    config = StageConfig.model_validate({**SMALL, **changes})
    directory = Bundle(root / run, "2026_01_01_00_00_00_pong").checkpoint(stage, step)
    schedule = Schedule(peak=0.125, start_step=0, end_step=100)
    extra = record([Seen(name="pong_frames.h5", fingerprint=seen, frames=50)])
    save_untrained(directory, stage, config, step=step, schedule=schedule, extra=extra)
    return directory


@pytest.fixture
def root(place: Path) -> Path:
    root = place / "runs"
    for stage in STAGES:
        save(root, stage)
    return root


def test_a_checkpoint_is_named_by_step_directory_folder_or_run(root: Path) -> None:
    older = save(root, "dynamics", step=30)
    newest = older.parent / "dynamics_step_59"
    assert read_given(str(older), "dynamics", root, training=TRAINING).step == 30
    for argument in (str(older.parent), RUN, str(root / RUN)):
        assert read_given(argument, "dynamics", root, training=TRAINING).directory == newest


def test_the_newest_run_that_has_all_stages_is_taken_when_none_is_given(root: Path) -> None:
    save(root, "dynamics", run="20260102_000000")
    for stage in STAGES:
        broken = save(root, stage, run="20260103_000000")
    (broken / "model_state_dict.pt").write_bytes(b"")
    found = newest_given(STAGES, root)
    assert {one.directory.parts[-6] for one in found.values()} == {RUN}


def test_checkpoints_of_several_runs_are_taken_only_when_no_run_has_all(place: Path) -> None:
    root = place / "runs"
    save(root, "video_tokenizer", run="20260101_000000")
    save(root, "video_tokenizer", run="20260102_000000")
    save(root, "dynamics", run="20260101_000000")
    save(root, "latent_actions", run="20260103_000000")
    found = newest_given(STAGES, root)
    assert {stage: one.directory.parts[-6] for stage, one in found.items()} == {
        "video_tokenizer": "20260102_000000",
        "latent_actions": "20260103_000000",
        "dynamics": "20260101_000000",
    }


def test_what_is_no_checkpoint_of_the_stage_is_refused_by_flag(root: Path) -> None:
    tokenizer = (
        root / RUN / "results/2026_01_01_00_00_00_pong/video_tokenizer/checkpoints/video_tokenizer_step_59"
    )
    with pytest.raises(
        CheckpointError, match="checkpoint of video_tokenizer; give it with --video-checkpoint"
    ):
        read_given(str(tokenizer), "dynamics", root, training=TRAINING)
    with pytest.raises(UsageError, match="--dynamics-checkpoint nowhere: no step directory"):
        read_given("nowhere", "dynamics", root, training=TRAINING)


def test_the_architecture_of_given_checkpoints_beats_the_profile(
    root: Path, dataset: Path, place: Path
) -> None:
    options = TrainOptions(
        profile="demo",
        dataset=str(dataset),
        only_stage="dynamics",
        video_checkpoint=RUN,
        latent_checkpoint=RUN,
        dynamics_checkpoint=RUN,
    )
    prepared = prepare(options, gpus=0)
    run = prepared.resolution.run
    assert {key: getattr(run.stage("dynamics"), key) for key in SMALL} == SMALL
    assert run.dynamics.learning_rate == 0.125, "a resumed stage keeps its peak"
    assert run.latent_actions.learning_rate == 5e-3, "an upstream stage is not trained"
    assert prepared.resolution.origins["training.patch_size"].startswith("checkpoint ")

    spec = create(prepared, "20260104_000000", datetime(2026, 1, 4, tzinfo=UTC))
    assert spec.given_steps == dict.fromkeys(STAGES, 60)
    for stage, path in spec.checkpoints.items():
        assert load_checkpoint(Path(spec.bundle) / path).stage == stage


def test_without_training_the_newest_checkpoints_are_used(root: Path, dataset: Path) -> None:
    prepared = prepare(TrainOptions(profile="demo", dataset=str(dataset), train_stage="none"), gpus=0)
    assert (prepared.stages, prepared.inference) == ([], True)
    assert set(prepared.given) == set(STAGES)


def test_checkpoints_that_do_not_fit_together_are_refused(root: Path, dataset: Path) -> None:
    other = save(root, "latent_actions", run="20260105_000000", embed_dim=32)
    options = TrainOptions(
        profile="demo",
        dataset=str(dataset),
        only_stage="dynamics",
        video_checkpoint=RUN,
        latent_checkpoint=str(other),
    )
    with pytest.raises(CheckpointError, match=r"embed_dim is 16 in .*20260101_0.* and 32 in .*20260105_0"):
        prepare(options, gpus=0)


def test_a_flag_that_asks_for_another_architecture_is_refused(root: Path, dataset: Path) -> None:
    options = TrainOptions(
        profile="demo", dataset=str(dataset), train_stage="none", assignments=("n_actions=8",)
    )
    with pytest.raises(CheckpointError, match=r"n_actions is 4 .* and 8 in the configuration"):
        prepare(options, gpus=0)


def released(directory: Path, path: Path, *without: str) -> Path:
    """A checkpoint as TinyWorlds released its models."""
    content = {
        "model": load_file(directory / "model_state_dict.pt"),
        "optimizer": load_file(directory / "optim_state_dict.pt"),
        "config": load_file(directory / "state.pt")["config"],
    }
    torch.save({key: value for key, value in content.items() if key not in without}, path)
    return path


def test_a_single_file_is_taken_and_becomes_a_step_directory_of_the_run(
    root: Path, dataset: Path, place: Path
) -> None:
    files = {
        stage: released(one.directory, place / f"{stage}_step_7.pth")
        for stage, one in newest_given(STAGES, root).items()
    }
    options = TrainOptions(
        profile="demo",
        dataset=str(dataset),
        only_stage="dynamics",
        video_checkpoint=str(files["video_tokenizer"]),
        latent_checkpoint=str(files["latent_actions"]),
        dynamics_checkpoint=str(files["dynamics"]),
    )
    prepared = prepare(options, gpus=0)
    spec = create(prepared, "20260104_000000", datetime(2026, 1, 4, tzinfo=UTC))
    assert spec.given_steps == dict.fromkeys(STAGES, 8)
    for stage, path in spec.checkpoints.items():
        assert path.endswith(f"{stage}/checkpoints/{stage}_step_7")
        assert load_checkpoint(Path(spec.bundle) / path).stage == stage


def test_a_single_file_that_does_not_suffice_is_refused_before_anything_starts(
    root: Path, dataset: Path, place: Path
) -> None:
    directory = read_given(RUN, "video_tokenizer", root, training=TRAINING).directory
    path = released(directory, place / "video_tokenizer_step_7.pth", "config")
    options = TrainOptions(
        profile="demo", dataset=str(dataset), only_stage="video_tokenizer", video_checkpoint=str(path)
    )
    with pytest.raises(CheckpointError, match="give the step directory it came from"):
        prepare(options, gpus=0)


def resumed(directory: Path, dataset: Path, *assignments: str) -> TrainOptions:
    return TrainOptions(
        profile="demo",
        dataset=str(dataset),
        only_stage="dynamics",
        video_checkpoint=RUN,
        latent_checkpoint=RUN,
        dynamics_checkpoint=str(directory),
        assignments=assignments,
    )


def test_a_stage_that_resumes_keeps_its_optimizer_and_its_experts(root: Path, dataset: Path) -> None:
    directory = save(root, "dynamics", step=70, use_moe=True, num_experts=3, optimizer="muon")
    dynamics = prepare(resumed(directory, dataset), gpus=0).resolution.run.dynamics
    assert (dynamics.use_moe, dynamics.num_experts, dynamics.optimizer) == (True, 3, "muon")


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("use_moe=false", r"dynamics_step_69 does not fit: .*\.ffn\.experts\..* unknown in the model"),
        ("dynamics.optimizer=adamw", "dynamics_step_69: the optimizer state does not fit AdamW"),
    ],
)
def test_a_flag_that_a_resumed_stage_cannot_follow_is_refused_before_anything_starts(
    root: Path, dataset: Path, flag: str, problem: str
) -> None:
    directory = save(root, "dynamics", step=70, use_moe=True, optimizer="muon")
    with pytest.raises(CheckpointError, match=problem):
        prepare(resumed(directory, dataset, flag), gpus=0)


def test_a_checkpoint_of_another_recording_is_told_and_not_refused(root: Path, dataset: Path) -> None:
    here = FramesDataset.open(dataset, context_length=3, cache_dir=root)
    own = save(root, "dynamics", step=70, seen=here.fingerprint)
    notices = prepare(resumed(own, dataset), gpus=0).notices
    assert [notice.partition(" was trained on")[0] for notice in notices] == [
        "--video-checkpoint video_tokenizer_step_59",
        "--latent-checkpoint latent_actions_step_59",
    ]
    assert here.fingerprint[:12] in notices[0]
