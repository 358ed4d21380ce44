"""What weights have seen: remembered over resumes, told when it is another recording."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest

from shared.datasets.frames import FramesDataset
from shared.events import Schedule
from shared.worldmodel.build import build_model
from shared.worldmodel.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from shared.worldmodel.optim import make_optimizer
from shared.worldmodel.seen import (
    Seen,
    never_saw_held_out,
    other_recording,
    record,
    seen_by,
    seen_in,
    with_more,
)


def recording(path: Path, *, first: int = 0, held_out_ratio: float = 0.2) -> FramesDataset:
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with h5py.File(path, "w") as file:
            file["frames"] = np.arange(first, first + 100, dtype=np.uint8)[:, None, None, None] * np.ones(
                (1, 8, 8, 3), np.uint8
            )
    return FramesDataset.open(
        path, context_length=4, fps=60, held_out_ratio=held_out_ratio, cache_dir=path.parent
    )


@pytest.fixture
def pong(tmp_path: Path) -> FramesDataset:
    return recording(tmp_path / "pong_frames.h5")


@pytest.fixture
def sonic(tmp_path: Path) -> FramesDataset:
    return recording(tmp_path / "sonic_frames.h5", first=100)


def saved(directory: Path, tiny, seen: list[Seen]) -> Checkpoint:
    config = tiny.config()
    model = build_model("video_tokenizer", config)
    optimizer = make_optimizer(model, config)
    tiny.update(model, optimizer, "video_tokenizer", 0)
    save_checkpoint(
        directory,
        stage="video_tokenizer",
        model=model,
        optimizer=optimizer,
        step=1,
        config=config,
        schedule=Schedule(peak=1e-3, start_step=0, end_step=1),
        extra=record(seen),
    )
    return load_checkpoint(directory)


def test_a_checkpoint_remembers_its_recording_and_so_does_its_manifest(
    tmp_path: Path, tiny, pong: FramesDataset
) -> None:
    checkpoint = saved(tmp_path / "video_tokenizer_step_0", tiny, [seen_in(pong)])
    assert seen_by(checkpoint) == [Seen(name="pong_frames.h5", fingerprint=pong.fingerprint, frames=80)]
    assert pong.fingerprint in (checkpoint.directory / "manifest.json").read_text()
    assert other_recording("it", seen_by(checkpoint), pong) is None
    assert never_saw_held_out(seen_by(checkpoint), pong)


def test_the_same_recording_under_another_name_is_the_same(tmp_path: Path, pong: FramesDataset) -> None:
    elsewhere = recording(tmp_path / "moved" / "other_frames.h5")
    assert other_recording("it", [seen_in(pong)], elsewhere) is None
    assert never_saw_held_out([seen_in(pong)], elsewhere)


def test_another_recording_is_named_with_both_fingerprints(pong: FramesDataset, sonic: FramesDataset) -> None:
    told = other_recording("video_tokenizer_step_9", [seen_in(pong)], sonic)
    assert told is not None
    for word in ("video_tokenizer_step_9", "pong_frames.h5", "sonic_frames.h5", pong.fingerprint[:12]):
        assert word in told


def test_going_back_and_forth_keeps_what_was_seen_before(pong: FramesDataset, sonic: FramesDataset) -> None:
    both = with_more([seen_in(pong)], seen_in(sonic))
    assert other_recording("it", both, sonic) is None, "told once, when it changed"
    assert other_recording("it", both, pong) is not None
    assert not never_saw_held_out(both, sonic)
    again = with_more(both, seen_in(pong))
    assert [each.name for each in again] == ["sonic_frames.h5", "pong_frames.h5"]


def test_frames_that_were_trained_on_once_are_never_held_out_again(
    tmp_path: Path, pong: FramesDataset
) -> None:
    all_of_it = recording(tmp_path / "pong_frames.h5", held_out_ratio=0)
    seen = with_more([seen_in(all_of_it)], seen_in(pong))
    assert [each.frames for each in seen] == [100]
    assert not never_saw_held_out(seen, pong)
    assert never_saw_held_out([seen_in(pong)], recording(tmp_path / "pong_frames.h5", held_out_ratio=0.2))
    assert not never_saw_held_out([seen_in(pong)], recording(tmp_path / "pong_frames.h5", held_out_ratio=0.3))


def test_tinyworlds_does_not_say_and_that_is_said(
    tinyworlds: Mapping[str, Path], pong: FramesDataset
) -> None:
    seen = seen_by(load_checkpoint(tinyworlds["dynamics"]))
    assert not never_saw_held_out(seen, pong)
    assert "PONG (no fingerprint known)" in (other_recording("it", seen, pong) or "")
