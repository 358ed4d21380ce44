"""Videos as frames files: which picture is kept when, and what is said of a damaged one."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pytest

from shared.datasets.ingest import IngestSummary, Timeline, ingest
from shared.datasets.mapping import open_frames
from shared.datasets.video import Picture
from shared.errors import DatasetError
from tests.unit.datasets.videos import level, levels, made


def ingested(video: Path, tmp_path: Path, **options: Any) -> IngestSummary:
    return ingest(video, tmp_path / "out_frames.h5", **{"size": 8, "overwrite": True, **options})


def test_a_whole_video_keeps_each_picture_once(tmp_path: Path) -> None:
    summary = ingested(made(tmp_path / "v.mkv", 90), tmp_path)
    assert levels(summary.path) == [level(i) for i in range(90)]
    assert (summary.fps, summary.source_fps, summary.source_size) == (30.0, 30.0, "32x24")
    assert summary.damage == ()
    with open_frames(summary.path) as frames:
        assert frames.shape == (90, 8, 8, 3)
        assert frames.id.get_offset() is not None  # contiguous: mapped where it lies
        about = frames.file.attrs
        assert (about["source"], about["fps"], json.loads(about["damage"])) == ("v.mkv", 30.0, [])
        assert len(about["source_sha256"]) == 64
        assert sorted(frames.file) == ["frames"]


def test_a_real_mp4_is_read(tmp_path: Path) -> None:
    summary = ingested(made(tmp_path / "v.mp4", 60, codec="libx264"), tmp_path)
    assert summary.frames == 60
    np.testing.assert_allclose(levels(summary.path), [level(i) for i in range(60)], atol=4)


def test_fewer_frames_a_second_drop_pictures_evenly(tmp_path: Path) -> None:
    summary = ingested(made(tmp_path / "v.mkv", 30), tmp_path, fps=10)
    assert levels(summary.path) == [level(i) for i in range(0, 30, 3)]


def test_more_frames_a_second_repeat_pictures_evenly(tmp_path: Path) -> None:
    summary = ingested(made(tmp_path / "v.mkv", 5), tmp_path, fps=60)
    assert levels(summary.path) == [level(i // 2) for i in range(10)]


def test_a_part_is_cut_out_by_seconds_and_by_number(tmp_path: Path) -> None:
    video = made(tmp_path / "v.mkv", 90)
    assert levels(ingested(video, tmp_path, start=1, end=2).path) == [level(i) for i in range(30, 60)]
    assert levels(ingested(video, tmp_path, start=2.5).path) == [level(i) for i in range(75, 90)]
    assert levels(ingested(video, tmp_path, frames=7).path) == [level(i) for i in range(7)]
    assert levels(ingested(video, tmp_path, frames=3, fps=60).path) == [level(0), level(0), level(1)]


def test_a_variable_frame_rate_is_brought_to_a_steady_one(tmp_path: Path) -> None:
    video = made(tmp_path / "v.mkv", 6, at_ms=[0, 100, 200, 600, 1000, 1100])
    summary = ingested(video, tmp_path, fps=10)
    assert levels(summary.path)[:11] == [level(i) for i in (0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4)]


def pictures(*at: float) -> list[Picture]:
    return [Picture(Fraction(str(each)), index) for index, each in enumerate(at)]


def test_timestamps_that_a_container_rounded_move_no_picture() -> None:
    rounded = pictures(*(round(i / 30, 3) for i in range(300)))
    timeline = Timeline(Fraction(30), Fraction(30))
    assert [times for _, times in timeline.ticks(rounded)] == [1] * 300
    kept = [p.frame for p, times in Timeline(Fraction(15), Fraction(30)).ticks(rounded) if times]
    assert kept == list(range(0, 300, 2))


def test_a_leap_of_the_timestamps_is_closed_and_counted() -> None:
    timeline = Timeline(Fraction(10), Fraction(10))
    shown = pictures(0, 0.1, 5000, 5000.1, 3, 3.1)
    assert [times for _, times in timeline.ticks(shown)] == [1] * 6
    assert timeline.leaps == 2


def test_a_picture_that_comes_late_is_left_out_and_counted() -> None:
    timeline = Timeline(Fraction(10), Fraction(10))
    assert [p.frame for p, _ in timeline.ticks(pictures(0, 0.3, 0.1, 0.4))] == [0, 1, 3]
    assert timeline.late == 1


@pytest.mark.parametrize("size", [(31, 17), (7, 5), (501, 3)])
def test_odd_sizes_are_squeezed_into_a_square(tmp_path: Path, size: tuple[int, int]) -> None:
    summary = ingested(made(tmp_path / "v.mkv", 3, size=size), tmp_path)
    assert levels(summary.path) == [level(i) for i in range(3)]
    assert summary.source_size == f"{size[0]}x{size[1]}"


def test_frames_are_resized_by_area(tmp_path: Path) -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, ::2] = 200
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width = stream.height = 16
        stream.pix_fmt = "bgr0"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    assert levels(ingested(tmp_path / "v.mkv", tmp_path).path) == [100]


@pytest.mark.parametrize(("name", "codec"), [("v.mp4", "mpeg4"), ("v.mp4", "libx264"), ("v.mkv", "ffv1")])
def test_a_video_cut_short_is_kept_up_to_the_cut(tmp_path: Path, name: str, codec: str) -> None:
    whole = made(tmp_path / name, 300, codec=codec, index_first=name.endswith("mp4"))
    content = whole.read_bytes()
    whole.write_bytes(content[: len(content) * 3 // 5])
    summary = ingested(whole, tmp_path)
    assert 50 < summary.frames < 299
    shown = [level(i) for i in range(summary.frames)]
    if codec == "ffv1":
        assert levels(summary.path) == shown
    else:
        with open_frames(summary.path) as frames:
            np.testing.assert_allclose(frames[:].mean(axis=(1, 2, 3)), shown, atol=6)
        assert "damaged pictures were left out: 1" in summary.damage
    assert any(
        "cut short: 10.0 s are declared" in each or "reading stopped" in each for each in summary.damage
    )
    with h5py.File(summary.path) as file:
        assert json.loads(file.attrs["damage"]) == list(summary.damage)


def test_damage_in_the_middle_is_left_out_and_said(tmp_path: Path) -> None:
    video = made(tmp_path / "v.mp4", 300, codec="mpeg4", index_first=True)
    content = bytearray(video.read_bytes())
    middle = len(content) * 3 // 5
    content[middle : middle + 400] = bytes(400)
    video.write_bytes(content)
    summary = ingested(video, tmp_path)
    assert summary.frames == 300
    assert any(each.startswith("damaged pictures were left out: ") for each in summary.damage)


def test_an_mp4_cut_short_before_its_index_is_an_error(tmp_path: Path) -> None:
    video = made(tmp_path / "v.mp4", 60, codec="mpeg4")
    video.write_bytes(video.read_bytes()[:600])
    with pytest.raises(DatasetError, match=r"v\.mp4: cannot be read as a video .*cut short before its index"):
        ingested(video, tmp_path)


def test_what_is_no_video_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("shopping list")
    with pytest.raises(DatasetError, match=r"notes\.mp4: cannot be read as a video"):
        ingested(tmp_path / "notes.mp4", tmp_path)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(DatasetError, match=r"empty\.mp4: cannot be read as a video"):
        ingested(tmp_path / "empty.mp4", tmp_path)
    with pytest.raises(DatasetError, match=r"none\.mp4: no such video"):
        ingested(tmp_path / "none.mp4", tmp_path)


def test_a_file_of_sound_is_an_error(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "song.mka"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DatasetError, match=r"has no video stream \(it holds: audio\)"):
        ingested(tmp_path / "song.mka", tmp_path)


def test_a_video_without_pictures_is_an_error(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "none.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width = stream.height = 16
        container.start_encoding()
    with pytest.raises(DatasetError, match=r"none\.mkv: cannot be read as a video"):
        ingested(tmp_path / "none.mkv", tmp_path)
    with pytest.raises(DatasetError, match=r"no picture from 1e\+30 s on could be decoded"):
        ingested(made(tmp_path / "v.mkv", 5), tmp_path, start=1e30)
    with pytest.raises(DatasetError, match="no picture between 50 s and 60 s could be decoded"):
        ingested(made(tmp_path / "v.mkv", 5), tmp_path, start=50, end=60)
    assert not (tmp_path / "out_frames.h5").exists()


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    video = made(tmp_path / "v.mkv", 5)
    with pytest.raises(KeyboardInterrupt):
        ingest(video, tmp_path / "data" / "x.h5", size=8, progress=interrupt)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_half_made_file_has_no_name_that_could_be_left(tmp_path: Path) -> None:
    seen: list[list[Path]] = []
    video = made(tmp_path / "v.mkv", 5)
    out = tmp_path / "data" / "x.h5"
    ingest(video, out, size=8, progress=lambda *_: seen.append(list(out.parent.iterdir())))
    assert seen == [[]] * 5


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, "full")

        def close(self) -> None:
            raise OSError(errno.ENOSPC, "what is buffered does not fit either")

    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full())
    video = made(tmp_path / "v.mkv", 5)
    with pytest.raises(DatasetError, match=r"x\.h5: cannot be written \(No space left on device\)"):
        ingest(video, tmp_path / "data" / "x.h5", size=8)
    assert list((tmp_path / "data").iterdir()) == []


def test_only_a_file_is_replaced_and_never_the_video(tmp_path: Path) -> None:
    video = made(tmp_path / "v.mkv", 5)
    content = video.read_bytes()
    with pytest.raises(DatasetError, match="is the video itself"):
        ingest(video, video, size=8, overwrite=True)
    assert video.read_bytes() == content
    for place in (tmp_path, Path("/dev/null")):
        with pytest.raises(DatasetError, match="is no file that could be replaced"):
            ingest(video, place, size=8, overwrite=True)
    with pytest.raises(DatasetError, match="cannot be written"):
        ingest(video, tmp_path / ("l" * 300), size=8)


@pytest.mark.parametrize("name", ["Zelda: play [1080p].mkv", os.fsdecode(b"play\xff.mkv")])
def test_a_video_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    made(tmp_path / "v.mkv", 5).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert ingested(Path(name), tmp_path).frames == 5
    with h5py.File(tmp_path / "out_frames.h5") as file:
        assert file.attrs["source"] == name.replace("\udcff", "\\udcff")


@pytest.mark.parametrize(("degrees", "bright"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_a_turned_video_is_turned_as_a_player_does(
    tmp_path: Path, degrees: int, bright: tuple[int, int]
) -> None:
    image = np.zeros((32, 64, 3), np.uint8)
    image[:16, :32] = 250
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(degrees)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    ingested(tmp_path / "v.mp4", tmp_path, size=2)
    with h5py.File(tmp_path / "out_frames.h5") as file:
        corners = file["frames"][0, :, :, 0]
    assert np.unravel_index(corners.argmax(), corners.shape) == bright


def test_progress_ends_near_the_whole(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    ingested(made(tmp_path / "v.mkv", 60), tmp_path, progress=lambda done, of: told.append((done, of)))
    assert told[0] == (0, 2000)
    assert told[-1][0] > 1900


def test_an_existing_file_is_kept_unless_asked(tmp_path: Path) -> None:
    video = made(tmp_path / "v.mkv", 5)
    ingested(video, tmp_path)
    with pytest.raises(DatasetError, match="exists already"):
        ingested(video, tmp_path, overwrite=False)


@pytest.mark.parametrize(
    "options",
    [
        {"fps": 0},
        {"start": -1},
        {"start": 3, "end": 3},
        {"fps": float("nan")},
        {"fps": float("inf")},
        {"start": float("inf")},
        {"end": float("nan")},
    ],
)
def test_impossible_wishes_are_refused(tmp_path: Path, options: dict[str, float]) -> None:
    with pytest.raises(DatasetError, match="fps must be above 0"):
        ingested(made(tmp_path / "v.mkv", 5), tmp_path, **options)


def test_without_av_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DatasetError, match=r"pip install 'worldloop\[data\]'"):
        ingested(tmp_path / "v.mp4", tmp_path)
