"""The picture shows what is real and what was predicted, pixel for pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from services.inference.picture import write_picture


def test_each_clip_has_a_row_of_truth_prediction_and_difference(tmp_path: Path) -> None:
    real = np.full((1, 3, 96, 96, 3), 200, np.uint8)
    predicted = np.full((1, 2, 96, 96, 3), 190, np.uint8)
    write_picture(tmp_path / "p.png", real, predicted, context=1, title="a title")
    with Image.open(tmp_path / "p.png") as picture:
        pixels = np.asarray(picture)
    assert (pixels == 200).all(axis=-1).sum() >= 3 * 96 * 96
    assert (pixels == 190).all(axis=-1).sum() >= 2 * 96 * 96
    assert (pixels == 30).all(axis=-1).sum() >= 2 * 96 * 96
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_small_frames_are_enlarged_without_smoothing(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    real = chance.choice(np.array([0, 255], np.uint8), (2, 4, 16, 16, 3))
    write_picture(tmp_path / "p.png", real, real[:, 2:], context=2, title="")
    with Image.open(tmp_path / "p.png") as picture:
        pixels = np.asarray(picture)
    top, left = 36, 92
    shown = pixels[top : top + 96, left : left + 96]
    np.testing.assert_array_equal(shown, real[0, 0].repeat(6, axis=0).repeat(6, axis=1))
