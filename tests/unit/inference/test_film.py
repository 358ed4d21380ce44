"""The film of a test: a file a player can read, and a warning where it cannot be written."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from services.inference import artifacts
from services.inference.artifacts import Artifacts, write_artifacts
from services.inference.evaluation import Evaluation
from services.inference.film import RATE, write_preview, write_video

NOW = datetime(2026, 1, 1, 12, 30, 15, tzinfo=UTC)


def pictures(count: int = 5) -> list[Image.Image]:
    return [Image.new("RGB", (66, 34), (level * 40, 0, 100)) for level in range(count)]


def written(directory: Path) -> Artifacts:
    shown = ("mse", "persistence_mse", "skill", "psnr", "motion_ratio")
    numbers = {"gated_by": "mse", **dict.fromkeys(shown, 0.5)}
    real = np.zeros((2, 3, 16, 16, 3), np.uint8)
    found = Evaluation(numbers, real, np.zeros((2, 2, 16, 16, 3), np.float32))
    return write_artifacts(found, directory, NOW, title="a run", context=1, clips=4)


def test_the_video_holds_every_picture_in_its_colour(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", iter(pictures()))
    with av.open(str(tmp_path / "film.mp4")) as container:
        (track,) = container.streams.video
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(track)]
        assert (track.codec_context.name, track.average_rate) == ("h264", RATE)
    assert [frame.shape for frame in frames] == [(34, 66, 3)] * 5
    for level, frame in enumerate(frames):
        np.testing.assert_allclose(frame.mean(axis=(0, 1)), (level * 40, 0, 100), atol=6)


def test_the_preview_holds_every_picture_exactly(tmp_path: Path) -> None:
    write_preview(tmp_path / "film.webp", iter(pictures()))
    with Image.open(tmp_path / "film.webp") as film:
        assert (film.n_frames, film.info["loop"]) == (5, 0)
        for level in range(5):
            film.seek(level)
            assert film.convert("RGB").getpixel((3, 3)) == (level * 40, 0, 100)


def test_picture_and_film_lie_side_by_side_and_none_is_overwritten(tmp_path: Path) -> None:
    first, second = written(tmp_path), written(tmp_path)
    stems = ("inference_results_gt_vs_pred_20260101_123015", "inference_results_gt_vs_pred_20260101_123015_2")
    names = {f"{stem}{suffix}" for stem in stems for suffix in (".png", ".mp4", ".webp")}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert first.problem is second.problem is None


def test_an_encoder_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, _: Iterable[Image.Image]) -> None:
        raise av.error.ExternalError(1, "no such encoder")

    monkeypatch.setattr(artifacts, "write_video", fails)
    found = written(tmp_path)
    assert (found.picture.is_file(), found.video, found.preview) == (
        True,
        None,
        found.picture.with_suffix(".webp"),
    )
    assert "inference_results_gt_vs_pred_20260101_123015.mp4: ExternalError" in (found.problem or "")


def test_a_machine_without_pyav_writes_no_video_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert "ModuleNotFoundError" in (written(tmp_path).problem or "")


def test_a_picture_that_cannot_be_written_is_no_warning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        written(tmp_path / "file")
