"""The picture shows what is real and what was predicted, pixel for pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from services.inference.picture import moving, sheet_of_test, spread, write_picture


def test_each_clip_has_a_row_of_truth_prediction_and_difference(tmp_path: Path) -> None:
    real = np.full((1, 3, 96, 96, 3), 200, np.uint8)
    predicted = np.full((1, 2, 96, 96, 3), 190, np.uint8)
    write_picture(tmp_path / "p.png", sheet_of_test(real, predicted, context=1, title="a title"))
    with Image.open(tmp_path / "p.png") as picture:
        pixels = np.asarray(picture)
    assert (pixels == 200).all(axis=-1).sum() >= 3 * 96 * 96
    assert (pixels == 190).all(axis=-1).sum() >= 2 * 96 * 96
    assert (pixels == 30).all(axis=-1).sum() >= 2 * 96 * 96
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_small_frames_are_enlarged_without_smoothing(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    real = chance.choice(np.array([0, 255], np.uint8), (2, 4, 16, 16, 3))
    write_picture(tmp_path / "p.png", sheet_of_test(real, real[:, 2:], context=2, title=""))
    with Image.open(tmp_path / "p.png") as picture:
        pixels = np.asarray(picture)
    top, left = 36, 92
    shown = pixels[top : top + 96, left : left + 96]
    np.testing.assert_array_equal(shown, real[0, 0].repeat(6, axis=0).repeat(6, axis=1))


def test_a_long_title_is_shown_to_its_end(tmp_path: Path) -> None:
    real = np.zeros((1, 2, 96, 96, 3), np.uint8)
    widths = []
    for title in ("", "a run in a far directory: " * 20):
        write_picture(tmp_path / "p.png", sheet_of_test(real, real[:, 1:], context=1, title=title))
        with Image.open(tmp_path / "p.png") as picture:
            widths.append(picture.width)
            ink = np.asarray(picture)[:18].min(axis=(0, 2)) < 128
    assert widths[1] > 3 * widths[0]
    assert not ink[-4:].any()


def test_a_film_shows_frame_by_frame_what_the_picture_shows_side_by_side() -> None:
    real = np.full((2, 3, 96, 96, 3), 200, np.uint8)
    predicted = np.full((2, 2, 96, 96, 3), 190, np.uint8)
    pictures = [np.asarray(each) for each in moving(sheet_of_test(real, predicted, context=1, title=""))]
    assert len(pictures) == 3
    assert {each.shape for each in pictures} == {pictures[0].shape}
    assert all(side % 2 == 0 for side in pictures[0].shape[:2])
    shown = [[(each == level).all(axis=-1).sum() // 96**2 for level in (200, 190, 30)] for each in pictures]
    assert shown == [[2, 0, 0], [2, 2, 2], [2, 2, 2]]


def test_clips_to_show_are_spread_over_all() -> None:
    assert spread(8, 4) == [0, 2, 5, 7]
    assert spread(2, 4) == [0, 1]
