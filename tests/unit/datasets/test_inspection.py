"""What is said about a recording, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from shared.datasets import mapping
from shared.datasets.inspection import inspect
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


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such dataset"):
        inspect(tmp_path / "none.h5")
