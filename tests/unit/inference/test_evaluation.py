"""The standard test on models whose numbers are known: frozen, perfect, obedient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.inference.config import Policy
from services.inference.core.clips import Layout
from services.inference.evaluation import Evaluation, evaluate
from services.inference.world import Decoding
from shared.config import InferenceConfig
from shared.datasets.frames import FramesDataset
from shared.errors import DatasetError, UsageError, WorldloopError
from tests.unit.inference.conftest import moving_square, write_recording


@dataclass
class FakeWorld:
    """A world that knows the clips: it shows them, what came before them, or nonsense."""

    how: str
    actions_total: int = 4
    with_actions: bool = True
    calls: list[tuple[int, Decoding, bool]] = field(default_factory=list)

    def action_codes(self, frames: np.ndarray) -> np.ndarray:
        """The square's way: 1 on, 2 back to the top."""
        at = (frames[..., 4:8, 0] > 128).any(axis=-1).argmax(axis=-1)
        return np.where(np.diff(at) > 0, 1, 2)

    def reconstruct(self, frames: np.ndarray) -> np.ndarray:
        return (frames / 255).astype(np.float32) * 0.9

    def rollout(
        self, clips: np.ndarray, codes: Sequence[np.ndarray] | None, layout: Layout, decoding: Decoding
    ) -> np.ndarray:
        self.calls.append((len(clips), decoding, codes is not None))
        real = (clips[:, layout.context : layout.context + layout.generated] / 255).astype(np.float32)
        if self.how == "frozen":
            return np.repeat(clips[:, layout.context - 1 : layout.context] / 255, layout.generated, 1).astype(
                "f4"
            )
        if self.how == "obedient" and codes is not None:  # right where the action is, else black
            told = np.stack([step[:, -1] for step in codes], axis=1)[:, : layout.generated]
            true = self.action_codes(clips)[:, layout.context - 1 :][:, : layout.generated]
            return real * (told == true)[..., None, None, None]
        return real * np.float32("nan") if self.how == "diverged" else real


def dataset(tmp_path: Path, frames: np.ndarray | None = None, **options: Any) -> FramesDataset:
    path = write_recording(tmp_path / "square.h5", moving_square() if frames is None else frames)
    return FramesDataset.open(
        path, **{"context_length": 4, "fps": 60, "cache_dir": tmp_path / "cache", **options}
    )


def evaluated(
    world: FakeWorld, recording: FramesDataset, *, trained_on: bool = True, **settings: Any
) -> Evaluation:
    config = InferenceConfig.model_validate(settings)
    return evaluate(world, recording, config, Policy(), trained_on=trained_on)  # type: ignore[arg-type]


def test_a_frozen_model_has_no_skill_and_no_motion(tmp_path: Path) -> None:
    numbers = evaluated(FakeWorld("frozen"), dataset(tmp_path)).numbers
    assert numbers["skill"] == pytest.approx(0, abs=1e-6)
    assert numbers["skill_per_frame"] == pytest.approx([0] * 12, abs=1e-6)
    assert numbers["motion_ratio"] == 0
    assert numbers["mse"] == pytest.approx(numbers["persistence_mse"])
    assert numbers["delta_psnr"] == 0


def test_a_perfect_model_has_all_of_it(tmp_path: Path) -> None:
    found = evaluated(FakeWorld("perfect"), dataset(tmp_path))
    numbers = found.numbers
    assert (numbers["mse"], numbers["mse_standard"], numbers["skill"]) == pytest.approx((0, 0, 1), abs=1e-12)
    assert numbers["motion_ratio"] == pytest.approx(1)
    assert numbers["ssim"] == pytest.approx(1)
    assert (numbers["frames_expected"], numbers["frames_inferred"], numbers["clips"]) == (96, 96, 8)
    assert found.real.shape == (8, 14, 16, 16, 3)
    assert found.predicted.shape == (8, 12, 16, 16, 3)


def test_the_clips_are_held_out_and_new_to_the_model(tmp_path: Path) -> None:
    recording = dataset(tmp_path)
    found = evaluated(FakeWorld("perfect"), recording)
    assert found.numbers["held_out"]
    assert found.numbers["seen_share"] == 0
    np.testing.assert_array_equal(found.real[0], recording.frames[270:284])
    np.testing.assert_array_equal(found.real[-1], recording.frames[286:300])


def test_frames_that_occur_in_the_training_part_are_counted(tmp_path: Path) -> None:
    frames = moving_square()
    frames[270:285] = frames[100:115]
    numbers = evaluated(FakeWorld("perfect"), dataset(tmp_path, frames), clips=2).numbers
    assert numbers["seen_share"] == pytest.approx(12 / 24)


def test_baselines_are_those_of_the_pixels(tmp_path: Path) -> None:
    recording = dataset(tmp_path)
    found = evaluated(FakeWorld("perfect"), recording)
    target = found.real[:, 2:] / 255
    mean = (recording.frames[:270] / 255).mean(axis=0)
    last = found.real[:, 1:2] / 255
    assert found.numbers["mean_frame_mse"] == pytest.approx(np.square(target - mean).mean())
    assert found.numbers["persistence_mse"] == pytest.approx(np.square(target - last).mean(), rel=1e-6)
    per_frame = np.square(target - last).mean(axis=(0, 2, 3, 4))
    assert found.numbers["persistence_per_frame"] == pytest.approx(per_frame.tolist(), rel=1e-6)


def test_teacher_forced_persistence_repeats_the_frame_that_was_given(tmp_path: Path) -> None:
    found = evaluated(FakeWorld("perfect"), dataset(tmp_path), teacher_forced=True)
    target, last = found.real[:, 2:] / 255, found.real[:, 1:-1] / 255
    assert found.numbers["persistence_mse"] == pytest.approx(np.square(target - last).mean(), rel=1e-6)


def test_the_ceiling_is_the_tokenizers_error_on_the_same_frames(tmp_path: Path) -> None:
    found = evaluated(FakeWorld("perfect"), dataset(tmp_path))
    expected = np.square(0.1 * found.real[:, 2:] / 255).mean()
    assert found.numbers["tokenizer_mse"] == pytest.approx(expected, rel=1e-5)


def test_a_model_that_obeys_actions_is_told_from_one_that_does_not(tmp_path: Path) -> None:
    recording = dataset(tmp_path)
    assert evaluated(FakeWorld("obedient"), recording).numbers["delta_psnr"] > 5
    assert evaluated(FakeWorld("perfect"), recording).numbers["delta_psnr"] == 0


def test_delta_is_taken_at_temperature_0_with_five_sets_of_actions(tmp_path: Path) -> None:
    world = FakeWorld("perfect")
    evaluated(world, dataset(tmp_path), temperature=0.7)
    assert [call[1].temperature for call in world.calls].count(0.0) == 1 + 5
    assert [call[1].temperature for call in world.calls].count(0.7) == 2
    assert [call[0] for call in world.calls].count(8) == 1 + 1 + 5


def test_codes_in_use_are_counted_over_the_held_out_part(tmp_path: Path) -> None:
    numbers = evaluated(FakeWorld("perfect"), dataset(tmp_path)).numbers
    assert (numbers["actions_in_use"], numbers["actions_total"]) == (2, 4)


def test_actions_are_told_as_the_test_asks(tmp_path: Path) -> None:
    recording = dataset(tmp_path)
    inferred = evaluated(FakeWorld("obedient"), recording).numbers
    random = evaluated(FakeWorld("obedient"), recording, actions="random").numbers
    told = evaluated(FakeWorld("obedient"), recording, actions="given", action_codes=(1,)).numbers
    assert [each["actions"] for each in (inferred, random, told)] == ["inferred", "random", "given"]
    assert inferred["mse"] == pytest.approx(0, abs=1e-12)
    assert random["mse"] > told["mse"] > 0  # code 1, on, is right but where the square goes back to the top


def test_controllability_does_not_depend_on_what_the_test_tells(tmp_path: Path) -> None:
    recording = dataset(tmp_path)
    first, second = (
        evaluated(FakeWorld("obedient"), recording, actions=how).numbers for how in ("inferred", "random")
    )
    assert first["delta_psnr_per_frame"] == second["delta_psnr_per_frame"]


def test_a_code_that_no_model_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"action_codes: 4 is no action .* 0 \.\. 3"):
        evaluated(FakeWorld("perfect"), dataset(tmp_path), actions="given", action_codes=(0, 4))


@pytest.mark.parametrize("wrong", [{"actions": "given"}, {"action_codes": (1,)}])
def test_given_actions_and_their_codes_belong_together(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="belong together"):
        InferenceConfig.model_validate(wrong)


def test_one_clip_gates_where_it_was_asked_for(tmp_path: Path) -> None:
    recording = dataset(tmp_path)
    assert evaluated(FakeWorld("frozen"), recording).numbers["gated_by"] == "mse"
    found = evaluated(FakeWorld("frozen"), recording, sample_index=40)
    assert found.numbers["gated_by"] == "mse_standard"
    clip = recording.frames[40:54] / 255
    expected = np.square(clip[2:] - clip[1]).mean() * 12 / 14
    assert found.numbers["mse_standard"] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(found.real, recording.frames[None, 40:54])  # what gates is shown
    np.testing.assert_allclose(found.predicted, clip[None, 1:2].repeat(12, axis=1), atol=1e-6)


def test_every_number_is_told_per_frame_with_its_interval(tmp_path: Path) -> None:
    numbers = evaluated(FakeWorld("frozen"), dataset(tmp_path)).numbers
    for name in ("mse", "psnr", "ssim"):
        assert numbers[f"{name}_low"] < numbers[name] < numbers[f"{name}_high"]
        frames = numbers[f"{name}_per_frame"]
        assert np.mean(frames) == pytest.approx(numbers[name])
        intervals = numbers["intervals_per_frame"][name]
        assert len(intervals) == 12
        assert all(low <= mean <= high for (low, high), mean in zip(intervals, frames, strict=True))
    assert np.mean(numbers["mean_frame_per_frame"]) == pytest.approx(numbers["mean_frame_mse"])
    assert np.mean(numbers["tokenizer_per_frame"]) == pytest.approx(numbers["tokenizer_mse"])
    assert numbers["delta_psnr_per_frame"][-1] == numbers["delta_psnr"]
    assert numbers["seen_per_frame"] == [0] * 12


def test_a_single_clip_has_numbers_and_no_intervals(tmp_path: Path) -> None:
    numbers = evaluated(FakeWorld("frozen"), dataset(tmp_path), clips=1).numbers
    assert numbers["mse"] > 0
    assert [numbers[f"{name}_low"] for name in ("mse", "psnr", "ssim", "skill", "delta_psnr")] == [None] * 5
    assert set(map(len, numbers["intervals_per_frame"].values())) == {0}


@pytest.mark.parametrize("switch", ["configuration", "model"])
def test_without_actions_none_are_given_and_there_is_no_delta(tmp_path: Path, switch: str) -> None:
    world = FakeWorld("perfect", with_actions=switch != "model")
    numbers = evaluated(world, dataset(tmp_path), use_actions=switch != "configuration").numbers
    assert not any(with_codes for _, _, with_codes in world.calls)
    assert numbers["actions"] == "none"
    assert "delta_psnr" not in numbers


def test_a_recording_too_short_is_tested_whole_and_says_so(tmp_path: Path) -> None:
    recording = dataset(tmp_path, moving_square(20))
    found = evaluated(FakeWorld("perfect"), recording)
    assert found.numbers["held_out"] is False
    assert found.numbers["clips"] == 7
    assert found.numbers["seen_share"] == 1


def test_a_held_out_part_too_short_for_the_clip_is_not_used(tmp_path: Path) -> None:
    found = evaluated(FakeWorld("perfect"), dataset(tmp_path), generation_steps=40)
    assert found.numbers["held_out"] is False


def test_a_model_of_other_training_is_tested_on_the_whole_file(tmp_path: Path) -> None:
    assert evaluated(FakeWorld("perfect"), dataset(tmp_path), trained_on=False).numbers["held_out"] is False


def test_a_recording_shorter_than_a_clip_is_refused(tmp_path: Path) -> None:
    recording = dataset(tmp_path, moving_square(13))
    with pytest.raises(DatasetError, match="has 13 frames, but a clip of 14 frames at stride 1 spans 14"):
        evaluated(FakeWorld("perfect"), recording)


def test_a_sample_index_outside_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"sample_index 287 .* clips begin at 0 \.\. 286"):
        evaluated(FakeWorld("perfect"), dataset(tmp_path), sample_index=287)


def test_frames_that_are_no_numbers_are_a_problem(tmp_path: Path) -> None:
    with pytest.raises(WorldloopError, match="not all finite"):
        evaluated(FakeWorld("diverged"), dataset(tmp_path))
