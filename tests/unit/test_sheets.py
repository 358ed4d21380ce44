"""Sheets are pictures for people that programs read back exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shared.bundle import Bundle
from shared.errors import BundleError
from shared.sheets import newest_sheet, read_sheet, sheet_path, sheet_step, write_sheet


def frames(rows: int, count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("rows", "count", "generated", "height", "width"),
    [(4, 4, 4, 64, 64), (1, 1, 1, 8, 8), (2, 4, 3, 64, 48), (4, 2, 1, 128, 128), (3, 4, 2, 7, 130)],
)
def test_what_was_written_comes_back_pixel_for_pixel(
    tmp_path: Path, rows: int, count: int, generated: int, height: int, width: int
) -> None:
    originals, made = frames(rows, count, height, width), frames(rows, generated, height, width, seed=1)
    write_sheet(tmp_path / "s.png", originals, made)
    sheet = read_sheet(tmp_path / "s.png")
    np.testing.assert_array_equal(sheet.originals, originals)
    np.testing.assert_array_equal(sheet.generated, made)


def test_fewer_generated_frames_belong_to_the_last_originals(tmp_path: Path) -> None:
    originals = frames(2, 4, 16, 16)
    write_sheet(tmp_path / "s.png", originals, originals[:, 1:])
    left, right = read_sheet(tmp_path / "s.png").pairs()
    np.testing.assert_array_equal(left, right)
    np.testing.assert_array_equal(left, originals[:, 1:])


def test_a_generated_frame_stands_in_its_originals_column(tmp_path: Path) -> None:
    dark = np.zeros((1, 2, 96, 96, 3), dtype=np.uint8)
    write_sheet(tmp_path / "s.png", dark, dark[:, 1:])
    with Image.open(tmp_path / "s.png") as picture:
        row = np.asarray(picture)[picture.height - 50, :, 0]
    runs = np.flatnonzero(np.diff(np.concatenate(([255], row, [255])) == 0)).reshape(-1, 2)
    first, second, generated = runs[:, 0]
    assert generated - second > 2 * (second - first), "the place of the first frame is left empty"


def test_small_frames_are_enlarged_for_people(tmp_path: Path) -> None:
    write_sheet(tmp_path / "s.png", frames(1, 1, 16, 16), frames(1, 1, 16, 16))
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.width >= 2 * 96


@pytest.mark.parametrize(
    ("originals", "generated", "problem"),
    [
        (frames(1, 1, 8, 8).astype(np.float32), frames(1, 1, 8, 8), "originals must be uint8"),
        (frames(1, 1, 8, 8), frames(1, 1, 8, 8)[0], "generated must be uint8"),
        (frames(5, 1, 8, 8), frames(5, 1, 8, 8), "at most 4 rows"),
        (frames(1, 5, 8, 8), frames(1, 5, 8, 8), "at most 4 rows x 4 frames"),
        (frames(2, 1, 8, 8), frames(1, 1, 8, 8), "do not belong"),
        (frames(1, 1, 8, 8), frames(1, 2, 8, 8), "do not belong"),
        (frames(1, 1, 8, 8), frames(1, 1, 8, 9), "do not belong"),
    ],
)
def test_arrays_that_make_no_sheet_are_refused(
    tmp_path: Path, originals: np.ndarray, generated: np.ndarray, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        write_sheet(tmp_path / "s.png", originals, generated)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_sheet_says_why(tmp_path: Path) -> None:
    path = tmp_path / "s.png"
    with pytest.raises(BundleError, match=r"s\.png.*cannot be read"):
        read_sheet(path)
    path.write_bytes(b"no picture")
    with pytest.raises(BundleError, match="cannot be read"):
        read_sheet(path)
    Image.new("RGB", (20, 20)).save(path)
    with pytest.raises(BundleError, match="no sheet of ours"):
        read_sheet(path)


def test_a_sheet_cut_short_says_why(tmp_path: Path) -> None:
    write_sheet(tmp_path / "s.png", frames(4, 4, 32, 32), frames(4, 4, 32, 32))
    whole = (tmp_path / "s.png").read_bytes()
    (tmp_path / "s.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match="cannot be read"):
        read_sheet(tmp_path / "s.png")


def test_a_resized_sheet_is_not_misread(tmp_path: Path) -> None:
    path = tmp_path / "s.png"
    write_sheet(path, frames(1, 1, 16, 16), frames(1, 1, 16, 16))
    with Image.open(path) as picture:
        text = picture.text  # type: ignore[attr-defined]
        smaller = picture.resize((picture.width // 2, picture.height // 2))
    from PIL import PngImagePlugin

    info = PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    smaller.save(path, pnginfo=info)
    with pytest.raises(BundleError, match="resized"):
        read_sheet(path)


def test_sheets_are_named_as_tinyworlds_names_them(tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, "2026_01_01_00_00_00_pong")
    folder = tmp_path / "results" / "2026_01_01_00_00_00_pong"
    assert sheet_path(bundle, "video_tokenizer", 60) == (
        folder / "video_tokenizer" / "visualizations" / "video_tokenizer_recon_step_59.png"
    )
    assert sheet_path(bundle, "latent_actions", 1).name == "reconstructions_latent_actions_step_0.png"
    assert sheet_path(bundle, "dynamics", 10).name == "dynamics_prediction_step_9.png"
    assert sheet_step(sheet_path(bundle, "dynamics", 10)) == 10
    assert sheet_step(Path("loss.png")) is None


def test_the_newest_sheet_is_that_of_the_highest_step(tmp_path: Path) -> None:
    assert newest_sheet(tmp_path / "missing") is None
    assert newest_sheet(tmp_path) is None
    for step in (99, 1000, 9):
        (tmp_path / f"dynamics_prediction_step_{step}.png").touch()
    (tmp_path / "notes.png").touch()
    assert newest_sheet(tmp_path) == tmp_path / "dynamics_prediction_step_1000.png"
