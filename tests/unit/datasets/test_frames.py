"""The frames dataset: what is read, what is held out, and what is refused."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import h5py
import numpy as np
import pytest

from shared.datasets.frames import FramesDataset
from shared.datasets.names import dataset_path, found_in, game_of, stride_of
from shared.errors import DatasetError

PONG = Path(__file__).parents[2] / "fixtures" / "pong_frames.h5"


def numbered(count: int, size: int = 8) -> np.ndarray:
    """Frames that can be told apart: frame i is i everywhere (i < 256)."""
    return np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, size, size, 3)
    ).copy()


def written(path: Path, frames: np.ndarray, *, compressed: bool = False, **datasets: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        layout = {"chunks": (7, *frames.shape[1:]), "compression": "gzip"} if compressed else {}
        file.create_dataset("frames", data=frames, **layout)
        for name, values in datasets.items():
            file[name] = values
    return path


def opened(path: Path, tmp_path: Path, **options: object) -> FramesDataset:
    return FramesDataset.open(
        path, **{"context_length": 4, "fps": 60, "cache_dir": tmp_path / "cache", **options}
    )


def test_a_contiguous_file_is_mapped_where_it_lies(tmp_path: Path) -> None:
    dataset = opened(written(tmp_path / "a.h5", numbered(100)), tmp_path)
    assert isinstance(dataset.frames, np.memmap)
    assert not dataset.frames.flags.writeable
    assert Path(dataset.frames.filename) == tmp_path / "a.h5"
    np.testing.assert_array_equal(dataset.frames, numbered(100))
    assert not (tmp_path / "cache").exists()


def test_a_compressed_file_reads_the_same_and_is_unpacked_once(tmp_path: Path) -> None:
    plain = opened(written(tmp_path / "a.h5", numbered(100)), tmp_path)
    packed = written(tmp_path / "b.h5", numbered(100), compressed=True)
    dataset = opened(packed, tmp_path)
    assert isinstance(dataset.frames, np.memmap)
    np.testing.assert_array_equal(dataset.frames, plain.frames)
    assert dataset.fingerprint == plain.fingerprint
    (flat,) = (tmp_path / "cache" / "frames").iterdir()
    before = flat.stat().st_mtime_ns
    opened(packed, tmp_path)
    assert flat.stat().st_mtime_ns == before


def test_a_cut_short_cache_is_made_again(tmp_path: Path) -> None:
    packed = written(tmp_path / "b.h5", numbered(100), compressed=True)
    opened(packed, tmp_path)
    (flat,) = (tmp_path / "cache" / "frames").iterdir()
    flat.write_bytes(b"half")
    np.testing.assert_array_equal(opened(packed, tmp_path).frames, numbered(100))


def test_a_file_recorded_anew_is_not_read_from_the_old_cache(tmp_path: Path) -> None:
    frames = numbered(100)
    opened(written(tmp_path / "b.h5", frames, compressed=True), tmp_path)
    frames[1] = 77  # a frame that the fingerprint's sample does not take
    assert opened(written(tmp_path / "b.h5", frames, compressed=True), tmp_path).frames[1, 0, 0, 0] == 77


def _sum(path: Path, tmp_path: Path) -> int:
    return int(opened(path, tmp_path).frames.sum())


def test_several_ranks_may_unpack_at_once(tmp_path: Path) -> None:
    packed = written(tmp_path / "b.h5", numbered(100), compressed=True)
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as ranks:
        sums = {rank.result() for rank in [ranks.submit(_sum, packed, tmp_path) for _ in range(3)]}
    assert sums == {int(numbered(100).sum(dtype=np.int64))}
    assert len(list((tmp_path / "cache" / "frames").iterdir())) == 1


def test_windows_have_the_stride_of_the_frame_rate(tmp_path: Path) -> None:
    dataset = opened(written(tmp_path / "a.h5", numbered(200)), tmp_path, fps=None)
    assert dataset.stride == 4
    batch = dataset.batch([0, 5])
    assert (batch.dtype, batch.shape) == (np.uint8, (2, 4, 8, 8, 3))
    assert batch[:, :, 0, 0, 0].tolist() == [[0, 4, 8, 12], [5, 9, 13, 17]]


@pytest.mark.parametrize(
    ("fps", "game", "stride"),
    [
        (None, "pong", 4),
        (60, "pong", 1),
        (30, "pong", 2),
        (120, "pong", 1),
        (None, "picodoom", 2),
        (15, "picodoom", 2),
    ],
)
def test_stride_is_60_over_fps_and_picodoom_is_always_30(fps: int | None, game: str, stride: int) -> None:
    assert stride_of(fps, game) == stride


def test_the_game_in_the_file_name_decides_unless_given(tmp_path: Path) -> None:
    path = written(tmp_path / "picodoom_frames.h5", numbered(200))
    assert opened(path, tmp_path, fps=None).stride == 2
    assert opened(path, tmp_path, fps=None, game="doom").stride == 4


def test_the_last_tenth_is_held_out_and_no_window_reaches_into_it(tmp_path: Path) -> None:
    dataset = opened(written(tmp_path / "a.h5", numbered(200)), tmp_path)
    assert dataset.held_out == range(180, 200)
    assert dataset.train_windows == 177
    assert dataset.batch([dataset.train_windows - 1]).max() == 179
    with pytest.raises(AssertionError):
        dataset.batch([dataset.train_windows])


def test_at_least_one_standard_clip_is_held_out(tmp_path: Path) -> None:
    dataset = opened(written(tmp_path / "a.h5", numbered(100)), tmp_path)
    assert dataset.held_out == range(86, 100)


def test_a_recording_too_short_holds_nothing_out(tmp_path: Path) -> None:
    dataset = opened(written(tmp_path / "a.h5", numbered(20)), tmp_path)
    assert len(dataset.held_out) == 0
    assert dataset.train_windows == 17


def test_nothing_is_held_out_when_the_ratio_says_so(tmp_path: Path) -> None:
    dataset = opened(written(tmp_path / "a.h5", numbered(200)), tmp_path, held_out_ratio=0.0)
    assert len(dataset.held_out) == 0
    assert dataset.train_windows == 197


def test_preload_ratio_limits_training_to_the_head_of_the_file(tmp_path: Path) -> None:
    dataset = opened(written(tmp_path / "a.h5", numbered(200)), tmp_path, preload_ratio=0.25)
    assert dataset.train_frames == 50
    assert dataset.held_out == range(180, 200)


def test_true_actions_come_along(tmp_path: Path) -> None:
    actions = np.arange(100, dtype=np.int32)
    dataset = opened(written(tmp_path / "a.h5", numbered(100), actions=actions), tmp_path)
    assert dataset.actions is not None
    assert dataset.actions.dtype == np.int64
    np.testing.assert_array_equal(dataset.actions, actions)


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    frames = numbered(100)
    first = opened(written(tmp_path / "a.h5", frames), tmp_path).fingerprint
    assert opened(written(tmp_path / "other.h5", frames), tmp_path).fingerprint == first
    frames[99, 0, 0, 0] += 1
    assert opened(written(tmp_path / "a.h5", frames), tmp_path).fingerprint != first
    assert opened(written(tmp_path / "a.h5", numbered(99)), tmp_path).fingerprint != first


def test_the_real_recording_reads(tmp_path: Path) -> None:
    dataset = opened(PONG, tmp_path, fps=None, frame_size=64)
    with h5py.File(PONG) as file:
        np.testing.assert_array_equal(dataset.frames, file["frames"][:])
    assert dataset.held_out == range(347, 400)  # 10 % are 40 frames, a standard clip at stride 4 takes 53
    np.testing.assert_array_equal(dataset.clips([347], 14)[0], dataset.frames[347:400:4])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "no_frames",
            {"video": np.zeros((9, 8, 8, 3), np.uint8)},
            "has no dataset 'frames' (it holds: video)",
        ),
        (
            "float",
            {"frames": np.zeros((9, 8, 8, 3), "f4")},
            "'frames' is float32. Store pixels as uint8",
        ),
        ("grey", {"frames": np.zeros((9, 8, 8), np.uint8)}, "shape [9, 8, 8]. Expected [N, H, W, 3]"),
        ("planar", {"frames": np.zeros((9, 3, 8, 8), np.uint8)}, "shape [9, 3, 8, 8]. Expected"),
        ("empty", {"frames": np.zeros((0, 8, 8, 3), np.uint8)}, "'frames' is empty"),
        ("short", {"frames": np.zeros((3, 8, 8, 3), np.uint8)}, "a window of 4 frames at stride 1 spans 4"),
        (
            "actions",
            {"frames": np.zeros((9, 8, 8, 3), np.uint8), "actions": np.zeros(8, np.int64)},
            "'actions' is int64 [8]. Expected one integer per frame",
        ),
    ],
)
def test_a_file_of_the_wrong_kind_is_refused_by_name(
    tmp_path: Path, name: str, content: dict[str, np.ndarray], says: str
) -> None:
    path = tmp_path / f"{name}.h5"
    with h5py.File(path, "w") as file:
        for key, values in content.items():
            file[key] = values
    with pytest.raises(DatasetError) as error:
        opened(path, tmp_path)
    assert str(path) in str(error.value)
    assert says in str(error.value)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"pong_frames\.h5: no such dataset\. Get it: .*download --pattern pong.* record"
    ):
        opened(tmp_path / "pong_frames.h5", tmp_path)
    with pytest.raises(DatasetError, match=r"Did you mean ZELDA\?"):
        opened(tmp_path / "zleda_frames.h5", tmp_path)


def test_a_broken_or_cut_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.h5"
    path.write_bytes(b"this is no HDF5")
    with pytest.raises(DatasetError, match="cannot be read as HDF5"):
        opened(path, tmp_path)
    whole = written(tmp_path / "cut.h5", numbered(100))
    whole.write_bytes(whole.read_bytes()[:-1000])
    with pytest.raises(DatasetError, match=r"cut\.h5"):
        opened(whole, tmp_path)


def test_a_damaged_chunk_is_reported_and_leaves_no_half_cache(tmp_path: Path) -> None:
    path = written(
        tmp_path / "damaged.h5",
        np.random.default_rng(0).integers(0, 255, (90, 8, 8, 3), np.uint8),
        compressed=True,
    )
    with h5py.File(path) as file:
        chunk = file["frames"].id.get_chunk_info(5)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"damaged\.h5"):
        opened(path, tmp_path)
    assert [*(tmp_path / "cache").rglob("*.u8")] == []


def test_another_frame_size_than_configured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="frames are 64x64, but frame_size is 128"):
        opened(PONG, tmp_path, frame_size=128)


def test_names_stand_for_files_in_the_data_directory(tmp_path: Path) -> None:
    assert dataset_path("POLE_POSITION", tmp_path) == tmp_path / "pole_position_frames.h5"
    assert dataset_path("zelda", tmp_path) == tmp_path / "zelda_frames.h5"
    assert dataset_path(str(tmp_path / "my.h5"), Path("data")) == tmp_path / "my.h5"
    assert dataset_path("my.h5", Path("data")).is_absolute()
    assert found_in(None, tmp_path / "my.h5") == tmp_path / "my.h5"
    assert found_in(Path("/data"), tmp_path / "my.h5") == Path("/data/my.h5")
    assert game_of(Path("/x/pole_position_frames.h5")) == "pole_position"
    assert game_of(Path("/x/My Game-2.h5")) == "my_game_2"
