"""Small files that claim to be large: refused before memory, disk or time go into them."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from services.commands.configuration.yaml_file import read_mapping
from services.diagnosis import histories
from services.reporter import notify_file
from shared import history_export, wandb_file
from shared.datasets.frames import FramesDataset
from shared.datasets.inspection import inspect
from shared.errors import WorldloopError
from shared.sheets import read_sheet
from shared.wandb_file import BLOCK, FILE_HEADER, FRAGMENT_HEADER, IDENT, MAGIC, VERSION, WandbFile
from tests.fuzz import memory


def refused(read: Callable[[], object], why: str) -> None:
    with memory.bounded(), pytest.raises(WorldloopError, match=why):
        read()


@pytest.mark.parametrize("side", [9_000, 50_000])
def test_a_picture_of_billions_of_pixels_is_no_sheet(side: int, tmp_path: Path) -> None:
    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path = tmp_path / "dynamics_prediction_step_4.png"
    pieces = piece(b"IHDR", size) + piece(b"IDAT", zlib.compress(bytes(10**6))) + piece(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + pieces)
    refused(lambda: read_sheet(path), "pixels")


MERGES = "a: &b0 {x: 1}\n" + "".join(
    f"m{n}: &b{n}\n  <<: [*b{n - 1}, *b{n - 1}]\n  k{n}: 1\n" for n in range(1, 40)
)


@pytest.mark.parametrize("text", [MERGES, "a: 1\n#" + "x" * (5 << 20)])
def test_yaml_that_grows_beyond_all_measure_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    refused(lambda: read_mapping(path, "x.yaml"), "merges|larger")
    refused(lambda: notify_file.read(path), "no YAML")


DECLARED: dict[str, dict[str, Any]] = {
    "has 0 of the": {"shape": (10**9, 64, 64, 3), "chunks": (1000, 64, 64, 3), "compression": "gzip"},
    "pixels. At most": {"shape": (10, 10**6, 10**6, 3), "chunks": (1, 1000, 1000, 3)},
    "too large to be unpacked": {"shape": (10**6, 64, 64, 3), "chunks": (300_000, 64, 64, 3)},
    "is declared, and not there": {"shape": (10**9, 64, 64, 3)},
    "is a link, or lies in other files": {"shape": (2, 8, 8, 3), "external": [("/etc/hostname", 0, 384)]},
}


@pytest.mark.parametrize("why", DECLARED)
def test_frames_that_a_file_only_declares_are_refused(why: str, tmp_path: Path) -> None:
    path = tmp_path / "pong_frames.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", dtype="u1", **DECLARED[why])
    refused(lambda: inspect(path), why)
    cache = tmp_path / "cache"
    refused(lambda: FramesDataset.open(path, context_length=4, cache_dir=cache), why)
    assert not cache.exists()


def test_frames_in_another_file_and_endless_actions_are_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "pong_frames.h5", tmp_path / "other.h5"
    frames = np.zeros((40, 8, 8, 3), np.uint8)
    with h5py.File(other, "w") as file:
        file["frames"] = frames
    with h5py.File(path, "w") as file:
        file["frames"] = h5py.ExternalLink(str(other), "frames")
    refused(lambda: inspect(path), "is a link, or lies in other files")
    with h5py.File(path, "w") as file:
        file["frames"] = frames
        file.create_dataset("actions", shape=(10**12,), dtype="i8", chunks=(1000,))
    refused(lambda: FramesDataset.open(path, context_length=4, cache_dir=tmp_path), "'actions' is int64")
    with memory.bounded():
        assert inspect(path)["actions"] is None


def through_a_group(file: Any, other: Path) -> None:
    del file["frames"]
    file["group"] = h5py.ExternalLink(str(other), "/")
    file["frames"] = h5py.SoftLink("/group/frames")


def mapped(file: Any, other: Path) -> None:
    layout = h5py.VirtualLayout(shape=(40,), dtype="i8")
    layout[:] = h5py.VirtualSource(str(other), "actions", shape=(40,))
    file.create_virtual_dataset("actions", layout)


def in_one_piece(file: Any, other: Path) -> None:
    file.create_dataset("actions", shape=(40,), maxshape=(None,), dtype="i8", chunks=(10**8,))


ELSEWHERE: dict[str, tuple[Callable[[Any, Path], object], str]] = {
    "frames by two links": (through_a_group, "lies in other files"),
    "actions by a link": (
        lambda file, other: file.__setitem__("actions", h5py.ExternalLink(str(other), "actions")),
        "lies in other files",
    ),
    "actions of a file that is no HDF5": (
        lambda file, _: file.create_dataset(
            "actions", shape=(40,), dtype="i8", external=[("/etc/passwd", 0, 320)]
        ),
        "lies in other files",
    ),
    "mapped actions": (mapped, "lies in other files"),
    "a huge piece": (in_one_piece, "too large to be unpacked"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_recording_chooses_no_other_file_to_be_read(name: str, tmp_path: Path) -> None:
    change, why = ELSEWHERE[name]
    path, other = tmp_path / "pong_frames.h5", tmp_path / "other.h5"
    for each in (path, other):
        with h5py.File(each, "w") as file:
            file["frames"] = np.zeros((40, 8, 8, 3), np.uint8)
    with h5py.File(other, "a") as file:
        file["actions"] = np.arange(40)
    with h5py.File(path, "a") as file:
        change(file, other)
    refused(lambda: FramesDataset.open(path, context_length=4, cache_dir=tmp_path), why)


def test_what_is_called_actions_and_is_no_data_is_none(tmp_path: Path) -> None:
    path = tmp_path / "pong_frames.h5"
    with h5py.File(path, "w") as file:
        file["frames"] = np.zeros((40, 8, 8, 3), np.uint8)
        file.create_group("actions")
    assert FramesDataset.open(path, context_length=4, cache_dir=tmp_path).actions is None


def test_a_recording_that_does_not_fit_unpacked_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pong_frames.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=np.zeros((40, 8, 8, 3), np.uint8), compression="gzip")
    usage = shutil.disk_usage(tmp_path)._replace(free=7_679)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    refused(lambda: FramesDataset.open(path, context_length=4, cache_dir=tmp_path), "do not fit there")


def test_a_record_of_wandb_that_does_not_end_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_file, "MOST_PARTS", 3)
    path = tmp_path / "run.wandb"
    content, kind = FILE_HEADER.pack(IDENT, MAGIC, VERSION), 2
    for _ in range(6):
        room = BLOCK - len(content) % BLOCK - FRAGMENT_HEADER.size
        checksum = zlib.crc32(bytes([kind]) + bytes(room))
        content, kind = content + FRAGMENT_HEADER.pack(checksum, room, kind) + bytes(room), 3
    path.write_bytes(content)
    file = WandbFile(path)
    deque(file.rows(), maxlen=0)
    assert "no end" in str(file.damage)


def test_a_history_in_json_is_read_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dynamics_history.json"
    path.write_text(json.dumps([{"_step": 1, "train/loss": 2.0}]))
    assert histories.read(path).columns["train/loss"] == [2.0]
    monkeypatch.setattr(history_export, "MOST_JSON_BYTES", 10)
    path.write_text(json.dumps([{"_step": 1, "train/loss": 3.0}]))
    refused(lambda: histories.read(path), "give the history as CSV")
