"""Frames are read out of TinyWorlds' figures, which say nothing about themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from shared.errors import BundleError
from shared.sheets import Sheet, read_sheet
from tests.unit.monitor.visual_corpus import Pixels, tinyworlds_sheet

REAL = Path(__file__).parent.parent / "fixtures" / "visual"
RECONSTRUCTION, PREDICTION = "video_tokenizer_recon_step_50", "reconstructions_latent_actions_step_50"
"""TinyWorlds' own, of its 51st update; stored as lossless WebP because it is smaller than PNG."""


def frames(rows: int, count: int, size: int = 64, seed: int = 0) -> Pixels:
    """Squares of 8 pixels in random colours, so that smoothing leaves their middles alone."""
    levels = np.random.default_rng(seed).integers(
        0, 256, (rows, count, size // 8, size // 8, 3), dtype=np.uint8
    )
    return levels.repeat(8, axis=2).repeat(8, axis=3)


def read(folder: Path, figure: Image.Image, name: str = "video_tokenizer_recon_step_0") -> Sheet:
    figure.save(folder / f"{name}.png")
    return read_sheet(folder / f"{name}.png")


@pytest.mark.parametrize(("rows", "count"), [(4, 4), (1, 1), (2, 4), (3, 2), (4, 1)])
def test_frames_of_64_pixels_come_back_exactly(tmp_path: Path, rows: int, count: int) -> None:
    originals, made = frames(rows, count), frames(rows, count, seed=1)
    sheet = read(tmp_path, tinyworlds_sheet(originals, made))
    np.testing.assert_array_equal(sheet.originals, originals)
    np.testing.assert_array_equal(sheet.generated, made)


def test_frames_of_128_pixels_are_smoothed_in_the_figure_and_come_back_nearly(tmp_path: Path) -> None:
    originals, made = frames(4, 4, 128), frames(4, 4, 128, seed=1)
    sheet = read(tmp_path, tinyworlds_sheet(originals, made))
    assert sheet.originals.shape == originals.shape
    far = np.abs(sheet.generated.astype(int) - made) > 8
    assert far.mean() < 0.5, "only borders of colours may differ"
    assert not far[:, :, 3::8, 3::8].any(), "the middle of a square is where it was"


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_tiles_of_predicted_frames_are_given_back_to_their_sequences(tmp_path: Path, rows: int) -> None:
    originals, made = frames(rows, 4), frames(rows, 3, seed=1)
    sheet = read(tmp_path, tinyworlds_sheet(originals, made), "reconstructions_latent_actions_step_9")
    np.testing.assert_array_equal(sheet.generated, made)
    left, right = sheet.pairs()
    np.testing.assert_array_equal(left, originals[:, 1:])
    np.testing.assert_array_equal(right, made)


def test_of_longer_sequences_the_predicted_frames_that_have_an_original_are_kept(tmp_path: Path) -> None:
    originals, made = frames(4, 4), frames(4, 7, seed=1)
    tiles = made.reshape(7, 4, *made.shape[2:])  # 28 tiles, four a row
    sheet = read(tmp_path, tinyworlds_sheet(originals, tiles), "reconstructions_latent_actions_step_9")
    middles = (slice(None), slice(None), slice(3, None, 8), slice(3, None, 8))  # a tall panel is smoothed
    np.testing.assert_array_equal(sheet.generated[middles], made[:, :3][middles])


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_frames_do_not_hide_the_lines(tmp_path: Path, level: int) -> None:
    originals = np.full_like(frames(4, 4), level)
    originals[:, :, 30:34, 30:34] = 200
    sheet = read(tmp_path, tinyworlds_sheet(originals, originals))
    np.testing.assert_array_equal(sheet.generated, originals)


def test_tinyworlds_own_reconstruction_is_read(tmp_path: Path) -> None:
    with Image.open(REAL / f"{RECONSTRUCTION}.webp") as figure:
        sheet = read(tmp_path, figure, RECONSTRUCTION)
    assert sheet.originals.shape == sheet.generated.shape == (4, 4, 64, 64, 3)
    game = sheet.originals[:, :, 16:56]  # the field of Pong: one colour, but for bats and ball
    assert (game == game[0, 0, 20, 30]).all(axis=-1).mean() > 0.97
    assert (sheet.originals[:, :, -3:] > 200).all(), "its lower bar"
    assert sheet.generated[:, :, -3:].mean() > 180


def test_tinyworlds_own_prediction_is_read(tmp_path: Path) -> None:
    with Image.open(REAL / f"{PREDICTION}.webp") as figure:
        sheet = read(tmp_path, figure, PREDICTION)
    assert sheet.originals.shape == (4, 4, 64, 64, 3)
    assert sheet.generated.shape == (4, 3, 64, 64, 3)
    band = sheet.generated[:, :, 6:12].astype(float).std(axis=3).mean(axis=(2, 3))
    assert (band[:, 0] > 1.5 * band[:, 1:].max(axis=1)).all(), (
        "only the first prediction of each has the upper bar"
    )


def test_a_picture_that_is_no_figure_says_why(tmp_path: Path) -> None:
    blank = Image.new("RGB", (600, 300), "white")
    with pytest.raises(BundleError, match=r"sheet_step_0\.png: no sheet of ours.*two panels .* 0 found"):
        read(tmp_path, blank, "sheet_step_0")
    draw = ImageDraw.Draw(blank)
    draw.rectangle((20, 20, 280, 280), fill=(200, 0, 0))
    with pytest.raises(BundleError, match="1 found"):
        read(tmp_path, blank)
    draw.rectangle((320, 20, 580, 280), fill=(200, 0, 0))
    with pytest.raises(BundleError, match="no black lines"):
        read(tmp_path, blank)
    for left in (20, 320):
        draw.rectangle((left, 20, left + 260, 280), outline="black")
    with pytest.raises(BundleError, match="no grid of 64 or 128 pixel frames"):
        read(tmp_path, blank)


def test_panels_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    originals, made = frames(4, 4), frames(2, 4)
    with pytest.raises(BundleError, match="originals, but"):
        read(tmp_path, tinyworlds_sheet(originals, made))
    with pytest.raises(BundleError, match="too few"):
        read(tmp_path, tinyworlds_sheet(originals, made), "reconstructions_latent_actions_step_0")
    single = frames(4, 1)
    with pytest.raises(BundleError, match="nothing can have been predicted"):
        read(tmp_path, tinyworlds_sheet(single, single), "reconstructions_latent_actions_step_0")
