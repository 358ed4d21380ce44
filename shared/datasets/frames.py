"""The frames dataset: windows of a recording for training, and the part held out from it.

Shapes: N frames in the file, B windows, T frames per window, H, W pixels, 3 colours; uint8 throughout.

The held-out part is the last `held_out_ratio` of the recording, at least one clip of the standard inference
test. Training windows end before it. A recording too short for that holds nothing out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.config import TrainingConfig
from shared.datasets.mapping import Frames, dataset_in, fingerprint, map_frames, open_frames, too_large
from shared.datasets.names import dataset_path, game_of, stride_of
from shared.errors import DatasetError

__all__ = ["FramesDataset", "dataset_path"]

STANDARD_CLIP = 14
"""Frames of the standard inference test: a context of 2 and 12 generated."""
LARGEST_HELD_OUT = 0.5
"""A recording that would have to hold out more than this share of itself is too short to hold out any."""


@dataclass(frozen=True, slots=True)
class FramesDataset:
    """A recording, memory-mapped. Make it with `open` or `configured`."""

    path: Path
    frames: Frames
    """Read-only memory map, uint8 [N, H, W, 3]."""
    actions: npt.NDArray[np.int64] | None
    """True action that led to each frame, [N]; none if the file has none."""
    context_length: int
    """Frames per training window (T)."""
    stride: int
    """Distance in the file between two frames of a window."""
    train_frames: int
    """Leading frames that training may see."""
    held_out: range
    """Indices of the frames never trained on; empty if the recording is too short."""
    fingerprint: str
    """Content-based: shape and a sample of the frames."""

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        context_length: int,
        fps: int | None = None,
        preload_ratio: float = 1.0,
        held_out_ratio: float = 0.1,
        game: str | None = None,
        cache_dir: Path,
        frame_size: int | None = None,
    ) -> FramesDataset:
        """Open a recording.

        Args:
            path: The h5 file: `frames` uint8 [N, H, W, 3], perhaps `actions` int [N].
            context_length: Frames per training window.
            fps: Frames per second of a window; decides the stride (`names.stride_of`).
            preload_ratio: Leading fraction of the file that training uses.
            held_out_ratio: Last fraction of the file, never trained on; 0 holds nothing out.
            game: Game the file shows; none takes it from the file's name.
            cache_dir: Where a compressed file is unpacked, once.
            frame_size: Height and width the frames must have; none takes any.

        Raises:
            DatasetError: The file is missing, broken, of the wrong kind or size, or too short for one window.
        """
        with open_frames(path) as dataset:
            height, width = dataset.shape[1:3]
            if frame_size is not None and (height, width) != (frame_size, frame_size):
                raise DatasetError(
                    f"{path}: frames are {width}x{height}, but frame_size is {frame_size}. "
                    f"Set frame_size in training.yaml, or record the game with --size {frame_size}"
                )
            frames = map_frames(path, dataset, cache_dir=cache_dir)
            actions = _actions(path, dataset)
        stride = stride_of(fps, game_of(path) if game is None else game)
        count = len(frames)
        span = span_of(context_length, stride)
        held = _held_out(count, held_out_ratio, clip=span_of(STANDARD_CLIP, stride), window=span)
        train = min(max(1, round(count * preload_ratio)), count - held)
        if train < span:
            raise DatasetError(
                f"{path}: {train} frames to train on ({count} in the file, {held} held out, preload_ratio "
                f"{preload_ratio}), but a window of {context_length} frames at stride {stride} spans {span}. "
                "Record more frames, raise preload_ratio, or set fps to 60 to read every frame"
            )
        return cls(
            path=path,
            frames=frames,
            actions=actions,
            context_length=context_length,
            stride=stride,
            train_frames=train,
            held_out=range(count - held, count),
            fingerprint=fingerprint(frames),
        )

    @classmethod
    def configured(
        cls, path: Path, training: TrainingConfig, *, cache_dir: Path, frame_size: int
    ) -> FramesDataset:
        """Open a recording as a configuration says training sees it; errors as `open`.

        Args:
            path: The h5 file.
            training: Windows, rate, and the parts that are used and held out.
            cache_dir: Where a compressed file is unpacked, once.
            frame_size: Height and width the frames must have.
        """
        return cls.open(
            path,
            context_length=training.context_length,
            fps=training.fps,
            preload_ratio=training.preload_ratio,
            held_out_ratio=training.held_out_ratio,
            cache_dir=cache_dir,
            frame_size=frame_size,
        )

    @property
    def train_windows(self) -> int:
        """Number of training windows; window i begins at frame i."""
        return self.train_frames - span_of(self.context_length, self.stride) + 1

    def batch(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Frames:
        """Training windows, uint8 [B, T, H, W, 3], for indices in 0 .. train_windows-1."""
        starts = np.asarray(indices, np.int64)
        assert starts.size == 0 or (starts.min() >= 0 and starts.max() < self.train_windows)
        return self.clips(starts, self.context_length)

    def clips(self, starts: Sequence[int] | npt.NDArray[np.integer], length: int) -> Frames:
        """Clips of `length` frames at the dataset's stride from first frames, uint8 [B, length, H, W, 3]."""
        at = np.asarray(starts, np.int64)[:, None] + self.stride * np.arange(length)
        windows: Frames = np.asarray(self.frames)[at]
        return windows


def span_of(length: int, stride: int) -> int:
    """Consecutive frames of the file that `length` frames at a stride reach over."""
    return (length - 1) * stride + 1


def _held_out(count: int, ratio: float, *, clip: int, window: int) -> int:
    if ratio == 0:
        return 0
    held = max(round(count * ratio), clip)
    too_short = held > max(ratio, LARGEST_HELD_OUT) * count or count - held < window
    return 0 if too_short else held


def _actions(path: Path, dataset: Any) -> npt.NDArray[np.int64] | None:
    actions = dataset_in(dataset.file, "actions")
    if actions is None:
        return None
    if not np.issubdtype(actions.dtype, np.integer) or actions.shape != dataset.shape[:1]:
        raise DatasetError(
            f"{path}: 'actions' is {actions.dtype} {list(actions.shape)}. Expected one integer per frame"
        )
    if (problem := too_large(actions)) is not None:
        raise DatasetError(f"{path}: 'actions' {problem}. Get or record it again")
    return np.asarray(actions).astype(np.int64)
