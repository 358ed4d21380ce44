"""Two tokenizers on the same frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.inference.picture import write_picture
from services.inference.tokenizers import Comparison, Tokenizer, compare, sheet_of
from shared.datasets.frames import FramesDataset
from shared.errors import CheckpointError, DatasetError
from shared.worldmodel.checkpoints import load_checkpoint
from shared.worldmodel.seen import Seen, seen_in
from tests.unit.inference.conftest import TinyRun, moving_square, write_recording


@dataclass
class FakeTokenizer:
    """Shows frames darker by a factor."""

    factor: float
    seen: list[Seen]
    frame_size: int = 16
    checkpoint: Any = field(default_factory=lambda: type("Checkpoint", (), {"directory": "somewhere"}))

    def show(self, frames: np.ndarray) -> np.ndarray:
        return (frames / 255 * self.factor).astype(np.float32)


def dataset(tmp_path: Path, count: int = 300, **options: Any) -> FramesDataset:
    path = write_recording(tmp_path / "square.h5", moving_square(count))
    return FramesDataset.open(
        path, **{"context_length": 4, "fps": 60, "cache_dir": tmp_path / "cache", **options}
    )


def compared(recording: FramesDataset, a: float, b: float, seen: list[Seen] | None = None) -> Comparison:
    known = [seen_in(recording)] if seen is None else seen
    return compare(FakeTokenizer(a, known), FakeTokenizer(b, known), recording)  # type: ignore[arg-type]


def test_each_has_its_numbers_and_the_difference_its_interval(tmp_path: Path) -> None:
    found = compared(dataset(tmp_path), 0.9, 0.95)
    squares = np.square(found.real / 255).mean()
    assert found.numbers["a"]["mse"] == pytest.approx(0.01 * squares, rel=1e-5)
    assert found.numbers["b"]["mse"] == pytest.approx(0.0025 * squares, rel=1e-5)
    gain = found.numbers["difference"]
    assert gain["mse"] == pytest.approx(-0.0075 * squares, rel=1e-5)
    assert gain["mse_low"] < gain["mse"] < gain["mse_high"] < 0
    assert gain["psnr"] == pytest.approx(20 * np.log10(2), rel=1e-4)
    assert gain["ssim"] > 0


@pytest.mark.parametrize(("a", "b", "better"), [(0.9, 0.95, "b"), (0.95, 0.9, "a"), (0.9, 0.9, None)])
def test_the_better_one_is_named_only_beyond_doubt(
    tmp_path: Path, a: float, b: float, better: str | None
) -> None:
    assert compared(dataset(tmp_path), a, b).numbers["better"] == better


def test_windows_are_held_out_and_do_not_overlap(tmp_path: Path) -> None:
    recording = dataset(tmp_path)
    found = compared(recording, 1, 1)
    assert found.numbers["held_out"]
    assert (found.numbers["windows"], found.numbers["frames"]) == (7, 28)
    frames = {frame.tobytes() for window in found.real for frame in window}
    assert len(frames) == 28
    assert frames <= {frame.tobytes() for frame in recording.frames[270:]}


def test_a_tokenizer_of_other_training_is_shown_the_whole_file(tmp_path: Path) -> None:
    found = compared(dataset(tmp_path), 1, 1, [Seen(name="elsewhere.h5", fingerprint=None, frames=None)])
    assert found.numbers["held_out"] is False
    assert found.numbers["windows"] == 64


def test_tokenizers_for_other_frames_are_refused(tmp_path: Path) -> None:
    recording = dataset(tmp_path)
    other = FakeTokenizer(1, [], frame_size=32)
    with pytest.raises(CheckpointError, match="frames of 16 pixels, somewhere for 32"):
        compare(FakeTokenizer(1, []), other, recording)  # type: ignore[arg-type]


def test_a_recording_that_shrank_below_a_window_is_refused(tmp_path: Path) -> None:
    short = dataset(tmp_path, 20, context_length=20)
    object.__setattr__(short, "frames", short.frames[:19])
    with pytest.raises(DatasetError, match="has 19 frames, but a window of 20 frames"):
        compared(short, 1, 1)


def test_a_checkpoint_becomes_a_tokenizer_only_if_it_is_one(tiny_run: TinyRun, tmp_path: Path) -> None:
    tokenizer, latent = (
        load_checkpoint(tiny_run.bundle.resolve(tiny_run.checkpoints[stage]))
        for stage in ("video_tokenizer", "latent_actions")
    )
    one = Tokenizer.of(tokenizer, "cpu")
    found = compare(one, one, dataset(tmp_path))
    assert found.numbers["difference"]["mse"] == 0
    assert found.numbers["better"] is None
    with pytest.raises(CheckpointError, match="is a checkpoint of latent_actions, not of video_tokenizer"):
        Tokenizer.of(latent, "cpu")


def test_the_picture_has_five_rows_a_window(tmp_path: Path) -> None:
    sheet = sheet_of(compared(dataset(tmp_path), 0.9, 1), title="", windows=2)
    assert [row.label for row in sheet.rows] == ["original", "A", "B", "difference A", "difference B"]
    assert [row.frames.shape[:2] for row in sheet.rows] == [(2, 4)] * 5
    np.testing.assert_array_equal(sheet.rows[0].frames, sheet.rows[2].frames)
    assert sheet.rows[3].frames.max() > 0 == sheet.rows[4].frames.max()
    write_picture(tmp_path / "ab.png", sheet)
    assert (tmp_path / "ab.png").stat().st_size > 0
