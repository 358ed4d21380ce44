"""The service on a tiny run with real checkpoints: command in, event and picture out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import structlog
import torch
from PIL import Image

from services.inference.core.clips import Layout
from services.inference.handlers import Deps, evaluate_inference
from services.inference.trial import run_trial
from services.inference.world import Cancelled, Decoding, World
from shared.bundle import Bundle
from shared.bus.memory import MemoryBus
from shared.errors import Retry
from shared.events import EvaluateInference, InferenceDone, RunStarted
from shared.service import Runs
from shared.settings import Settings
from tests.unit.inference.conftest import RUN_ID, TinyRun, configuration, moving_square, save, write_recording

NOW = datetime(2026, 1, 1, 12, 30, 15, tzinfo=UTC)


def tried(run: TinyRun, command: EvaluateInference, tmp_path: Path) -> InferenceDone:
    return run_trial(
        command, run.spec, run.bundle, cache_dir=tmp_path / "cache", now=NOW, cancelled=lambda: False
    )


async def deps(run: TinyRun, tmp_path: Path) -> Deps:
    bus = MemoryBus("gatekeeper")
    await bus.publish(RunStarted(run_id=RUN_ID, spec=run.spec))
    settings = Settings(state_dir=tmp_path / "state", cache_dir=tmp_path / "cache")
    return Deps(bus=bus, runs=Runs(bus, settings), cache_dir=settings.cache_dir, now=lambda: NOW)


async def test_the_test_is_answered_with_all_numbers_and_a_picture(tiny_run: TinyRun, tmp_path: Path) -> None:
    (done,) = await evaluate_inference(tiny_run.command(), await deps(tiny_run, tmp_path))
    assert isinstance(done, InferenceDone)
    assert done.ok, done.problem
    assert done.held_out
    assert done.checkpoints == tiny_run.checkpoints
    assert (done.frames_expected, done.frames_inferred, done.clips) == (18, 18, 3)
    missing = {key for key, value in done.model_dump().items() if value is None}
    assert missing == {"problem", "video_problem"}
    lengths = {key: len(value) for key, value in done.model_dump().items() if key.endswith("_per_frame")}
    shorter = {"motion_ratio_per_frame": 5, "delta_psnr_per_frame": 4, "intervals_per_frame": 4}
    assert lengths == dict.fromkeys(lengths, 6) | shorter
    assert {key: len(found) for key, found in done.intervals_per_frame.items()} == dict.fromkeys(
        ("mse", "skill", "psnr", "ssim"), 6
    )
    assert (done.actions, done.gated_by, done.gating) == ("inferred", "mse", done.mse)
    assert done.picture == "inference_results/inference_results_gt_vs_pred_20260101_123015.png"
    with Image.open(tiny_run.bundle.resolve(done.picture)) as picture:
        assert picture.width > 8 * 16


def test_a_recording_is_found_in_the_services_own_data_directory(tiny_run: TinyRun, tmp_path: Path) -> None:
    recording = Path(tiny_run.spec.configuration["training"]["dataset"])
    here = tmp_path / "data"
    here.mkdir()
    recording.rename(here / recording.name)
    command, where = tiny_run.command(), {"cache_dir": tmp_path / "cache", "now": NOW}
    lost = run_trial(command, tiny_run.spec, tiny_run.bundle, cancelled=lambda: False, **where)
    assert str(recording) in str(lost.problem)
    found = run_trial(
        command, tiny_run.spec, tiny_run.bundle, cancelled=lambda: False, data_dir=here, **where
    )
    assert found.ok, found.problem


async def test_an_answered_command_is_not_worked_on_again(tiny_run: TinyRun, tmp_path: Path) -> None:
    wired = await deps(tiny_run, tmp_path)
    command = tiny_run.command()
    await wired.bus.publish(InferenceDone(run_id=RUN_ID, inference_try=1, ok=True))
    assert await evaluate_inference(command, wired) == []
    again = command.model_copy(update={"retry": 1})
    (done,) = await evaluate_inference(again, wired)
    assert isinstance(done, InferenceDone)
    assert done.retry == 1


async def test_a_run_nobody_started_comes_again_later(tiny_run: TinyRun, tmp_path: Path) -> None:
    wired = await deps(tiny_run, tmp_path)
    with pytest.raises(Retry):
        await evaluate_inference(tiny_run.command().model_copy(update={"run_id": "20260202_000000"}), wired)


def test_the_same_test_gives_the_same_numbers_bit_for_bit(tiny_run: TinyRun, tmp_path: Path) -> None:
    first, second = (tried(tiny_run, tiny_run.command(temperature=0.8), tmp_path) for _ in range(2))
    changing = {"picture", "video", "preview", "seconds"}
    assert first.model_dump(exclude=changing) == second.model_dump(exclude=changing)
    assert first.picture != second.picture
    other = tried(tiny_run, tiny_run.command(temperature=0.8, seed=1), tmp_path)
    assert other.mse != first.mse


def test_teacher_forced_is_another_test_and_named(tiny_run: TinyRun, tmp_path: Path) -> None:
    free, forced = (tried(tiny_run, tiny_run.command(teacher_forced=on), tmp_path) for on in (False, True))
    assert (free.mode, forced.mode) == ("autoregressive", "teacher-forced")
    assert free.mse_per_frame[0] == forced.mse_per_frame[0]
    assert free.mse_per_frame[1:] != forced.mse_per_frame[1:]


def test_a_longer_horizon_generates_as_many_frames(tiny_run: TinyRun, tmp_path: Path) -> None:
    done = tried(tiny_run, tiny_run.command(prediction_horizon=4), tmp_path)
    assert done.ok, done.problem
    assert (done.frames_inferred, len(done.mse_per_frame)) == (18, 6)


def test_a_video_that_fails_is_a_warning_in_the_answer(
    tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path, pictures: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("services.inference.artifacts.write_video", fails)
    done = tried(tiny_run, tiny_run.command(), tmp_path)
    assert (done.ok, done.video) == (True, None)
    assert "no space left on device" in (done.video_problem or "")
    assert done.preview == "inference_results/inference_results_gt_vs_pred_20260101_123015.webp"


def test_a_code_that_no_model_has_is_an_answer(tiny_run: TinyRun, tmp_path: Path) -> None:
    done = tried(tiny_run, tiny_run.command(actions="given", action_codes=[7]), tmp_path)
    assert not done.ok
    assert "action_codes: 7 is no action" in (done.problem or "")


def test_a_missing_checkpoint_is_an_answer(tiny_run: TinyRun, tmp_path: Path) -> None:
    shutil.rmtree(tiny_run.bundle.resolve(tiny_run.checkpoints["dynamics"]))
    done = tried(tiny_run, tiny_run.command(), tmp_path)
    assert not done.ok
    assert "dynamics_step_0" in (done.problem or "")
    assert (done.picture, done.mse) == (None, None)


def test_a_bundle_that_was_moved_is_an_answer_and_nothing_is_made_in_its_place(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    gone = Bundle(tmp_path / "gone", tiny_run.bundle.run_name)
    done = tried(replace(tiny_run, bundle=gone), tiny_run.command(), tmp_path)
    assert not done.ok
    assert f"the run's bundle is not at {gone.root}" in (done.problem or "")
    assert not gone.root.exists()


def test_a_stage_without_checkpoint_is_an_answer(tiny_run: TinyRun, tmp_path: Path) -> None:
    del tiny_run.checkpoints["latent_actions"]
    assert "no checkpoint of latent_actions" in (tried(tiny_run, tiny_run.command(), tmp_path).problem or "")


def test_a_checkpoint_of_another_stage_is_an_answer(tiny_run: TinyRun, tmp_path: Path) -> None:
    tiny_run.checkpoints["dynamics"] = tiny_run.checkpoints["latent_actions"]
    assert "is a checkpoint of latent_actions" in (
        tried(tiny_run, tiny_run.command(), tmp_path).problem or ""
    )


def test_checkpoints_that_do_not_fit_together_are_an_answer(tiny_run: TinyRun, tmp_path: Path) -> None:
    other = configuration(tmp_path / "square_frames.h5", latent_dim=3)
    save(tiny_run.bundle, "dynamics", other)
    problem = tried(tiny_run, tiny_run.command(), tmp_path).problem or ""
    assert "latent_dim is 2" in problem
    assert "and 3 in" in problem


def test_a_missing_recording_is_an_answer(tiny_run: TinyRun, tmp_path: Path) -> None:
    (tmp_path / "square_frames.h5").unlink()
    assert "no such dataset" in (tried(tiny_run, tiny_run.command(), tmp_path).problem or "")


def test_a_crash_is_an_answer(tiny_run: TinyRun, tmp_path: Path) -> None:
    tiny_run.bundle.inference_results.write_text("in the way of the directory")
    with structlog.testing.capture_logs() as logged:
        done = tried(tiny_run, tiny_run.command(), tmp_path)
    assert [line["event"] for line in logged] == ["the inference test crashed"]
    assert not done.ok
    assert "Error" in (done.problem or "")


def test_a_checkpoint_trained_on_other_frames_is_not_tested_as_held_out(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    save(
        tiny_run.bundle, "video_tokenizer", configuration(tmp_path / "square_frames.h5", held_out_ratio=0.05)
    )
    done = tried(tiny_run, tiny_run.command(), tmp_path)
    assert done.ok, done.problem
    assert not done.held_out


def test_a_recording_that_was_moved_is_still_held_out(tiny_run: TinyRun, tmp_path: Path) -> None:
    moved = write_recording(tmp_path / "elsewhere_frames.h5", moving_square())
    tiny_run.spec = tiny_run.spec.model_copy(
        update={"configuration": configuration(moved).model_dump(mode="json")}
    )
    assert tried(tiny_run, tiny_run.command(), tmp_path).held_out


def test_a_recording_that_was_made_anew_under_its_name_was_never_held_out(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    write_recording(tmp_path / "square_frames.h5", moving_square()[::-1])
    done = tried(tiny_run, tiny_run.command(), tmp_path)
    assert done.ok, done.problem
    assert not done.held_out


def test_a_short_recording_is_not_tested_as_held_out(tiny_run: TinyRun, tmp_path: Path) -> None:
    write_recording(tmp_path / "square_frames.h5", moving_square(20))
    assert tried(tiny_run, tiny_run.command(), tmp_path).held_out is False


def test_the_work_ends_soon_when_nobody_waits(tiny_run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        run_trial(
            tiny_run.command(),
            tiny_run.spec,
            tiny_run.bundle,
            cache_dir=tmp_path,
            now=NOW,
            cancelled=lambda: True,
        )


def test_each_step_goes_on_from_the_frames_generated_before(
    tiny_run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def brighter(
        dynamics: object, tokenizer: object, context: torch.Tensor, *_: object, **__: object
    ) -> torch.Tensor:
        assert context.shape[1] == 2
        return context.mean(1, keepdim=True) + 0.1

    monkeypatch.setattr("services.inference.world.decode", brighter)
    paths = {stage: tiny_run.bundle.resolve(path) for stage, path in tiny_run.checkpoints.items()}
    decoding = Decoding(steps=1, temperature=0, teacher_forced=False, seed=0)
    black = np.zeros((1, 6, 16, 16, 3), np.uint8)
    made = World.load(paths, "cpu").rollout(black, None, Layout(context=2, horizon=1, generated=4), decoding)
    # in [-1, 1] each is the mean of the two before, plus 0.1, from -1 on
    expected = [-0.9, -0.85, -0.775, -0.7125]
    np.testing.assert_allclose(made[0, :, 0, 0, 0], (np.array(expected) + 1) / 2, atol=1e-6)


def test_generation_sees_the_context_and_its_own_frames_alone(tiny_run: TinyRun) -> None:
    paths = {stage: tiny_run.bundle.resolve(path) for stage, path in tiny_run.checkpoints.items()}
    world = World.load(paths, "cpu")
    layout = Layout(context=2, horizon=1, generated=5)
    clips = moving_square()[None, :7]
    codes = [np.ones((1, 2), np.int64)] * 5
    blind = clips.copy()
    blind[:, 2:] = 0
    decoding = Decoding(steps=4, temperature=0.5, teacher_forced=False, seed=0)
    np.testing.assert_array_equal(
        world.rollout(clips, codes, layout, decoding), world.rollout(blind, codes, layout, decoding)
    )
    forced = Decoding(steps=4, temperature=0.5, teacher_forced=True, seed=0)
    seen, unseen = (world.rollout(frames, codes, layout, forced) for frames in (clips, blind))
    assert not np.array_equal(seen, unseen)
