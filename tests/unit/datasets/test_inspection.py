"""What is said about a recording, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from shared.datasets import mapping
from shared.datasets.inspection import frame_rate, inspect
from shared.errors import DatasetError


def written(path: Path, levels: list[int]) -> Path:
    frames = np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), 4, 4, 3))
    with h5py.File(path, "w") as file:
        file["frames"] = frames
        file["actions"] = np.array([0, 3] * (len(levels) // 2))
        file["episode_starts"] = np.array([0, 2])
        file.attrs["env"] = "X"
    return path


@pytest.mark.parametrize("block_bytes", [mapping.BLOCK_BYTES, 100])
def test_baselines_and_duplicates_are_right_whatever_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(mapping, "BLOCK_BYTES", block_bytes)
    found = inspect(written(tmp_path / "a.h5", [0, 51, 0, 51, 102, 51]))  # 51 is a fifth of white
    assert (found["frames"], found["height"], found["width"]) == (6, 4, 4)
    assert found["duplicate_share"] == pytest.approx(0.5)
    assert found["persistence_mse"][1] == pytest.approx(0.04)
    assert found["persistence_mse"][4] == pytest.approx((0.16 + 0) / 2)
    assert found["persistence_mse"][12] is None
    levels = np.array([0, 0.2, 0, 0.2, 0.4, 0.2])
    assert found["mean_frame_mse"] == pytest.approx(levels.var())
    assert found["actions"] == 2
    assert found["episodes"] == 2
    assert found["attributes"] == {"env": "X"}
    assert found["repeat_share"] == 0
    assert found["sheet"] is None


def test_pictures_that_stay_are_told_from_those_that_come_back(tmp_path: Path) -> None:
    found = inspect(written(tmp_path / "a.h5", [0, 0, 51, 51, 0, 9]))
    assert found["repeat_share"] == pytest.approx(2 / 6)
    assert found["duplicate_share"] == pytest.approx(3 / 6)


@pytest.mark.parametrize(
    ("stated", "game", "default", "advice"),
    [
        (60.0, "pong", (4, 15.0), 15),
        (30.0, "pong", (4, 7.5), 30),
        (7.5, "pong", (4, 1.875), 60),
        (None, "pong", (4, None), None),
        (30.0, "picodoom", (2, 15.0), 30),
        (60.0, "picodoom", (2, 30.0), None),
    ],
)
def test_the_rate_at_which_training_reads_is_worked_out(
    stated: float | None, game: str, default: tuple[int, float | None], advice: int | None
) -> None:
    found = frame_rate(stated, game)
    assert (found["read_by_default"]["stride"], found["read_by_default"]["per_second"]) == default
    assert found["advice"] == advice


def test_the_contact_sheet_shows_moments_and_what_follows(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", [i % 250 for i in range(400)])
    inspect(path, sheet=tmp_path / "sheets" / "a.png")
    with Image.open(tmp_path / "sheets" / "a.png") as sheet:
        pixels = np.asarray(sheet)
    tile_w, tile_h = pixels.shape[1] // 8, pixels.shape[0] // 6
    middle = pixels[tile_h // 2 :: tile_h, tile_w // 2 :: tile_w, 0]
    assert middle[0].tolist() == [0, 4, 8, 12, 16, 20, 24, 28]
    assert middle[5].tolist() == [i % 250 for i in range(371, 400, 4)]


def test_a_recording_of_one_frame_has_a_sheet(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"] = np.zeros((1, 4, 4, 3), np.uint8)
    assert inspect(tmp_path / "a.h5", sheet=tmp_path / "a.png")["persistence_mse"][1] is None


def test_a_sheet_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", [0, 1])
    with pytest.raises(DatasetError, match=r"sheet\.png: the contact sheet cannot be written.*--no-sheet"):
        inspect(path, sheet=path / "sheet.png")


def test_a_sheet_never_replaces_a_recording(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", [0, 1])
    content = path.read_bytes()
    with pytest.raises(DatasetError, match=r"a\.h5: a contact sheet is a PNG"):
        inspect(path, sheet=path)
    assert path.read_bytes() == content


def test_what_a_stranger_left_in_a_file_is_put_up_with(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", [0, 1])
    with h5py.File(path, "a") as file:
        file.attrs["fps"] = np.inf
        for name in {"actions", "episode_starts"} & set(file):
            del file[name]
        file["episode_starts"] = 0
        file.create_group("actions")
    found = inspect(path)
    assert (found["frame_rate"]["stated"], found["episodes"], found["actions"]) == (None, 1, None)


def test_broken_metadata_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", [0, 1])
    content = bytearray(path.read_bytes())
    table = content.index(b"SNOD")
    content[table : table + 4] = b"XXXX"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"a\.h5: .*(damaged|broken)"):
        inspect(path)


def test_progress_counts_both_passes(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    inspect(written(tmp_path / "a.h5", list(range(100))), progress=lambda done, of: told.append((done, of)))
    assert told == [(64, 200), (100, 200), (164, 200), (200, 200)]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such dataset"):
        inspect(tmp_path / "none.h5")
