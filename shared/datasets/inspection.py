"""What is in a recording, and what an MSE limit would mean on it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.datasets.mapping import DATASET, Frames, blocks, dataset_in, fingerprint, open_frames, too_large
from shared.datasets.names import DEFAULT_FPS, FULL_RATE, game_of, stride_of
from shared.datasets.progress import Progress
from shared.datasets.sheet import contact_sheet

PERSISTENCE_STEPS = (1, 4, 12)
PIECE = 64
"""Frames that are looked at together."""


def inspect(path: Path, *, sheet: Path | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Shape, rate, duplicates and baselines of a recording, in two passes and little memory.

    Args:
        path: The recording.
        sheet: PNG to draw its contact sheet into; none draws none.
        progress: Called with frames looked at and frames to look at, over both passes.

    Returns:
        `path, frames, height, width, size_bytes` (the file's), `compressed, fingerprint, attributes` (as the
        recorder left them), `actions` (distinct true actions, or None), `episodes` (or None),
        `duplicate_share` (frames that occurred before, 0..1), `repeat_share` (frames equal to the one just
        before, 0..1), `frame_rate` (as `frame_rate` says), `persistence_mse` (per distance 1, 4, 12 in frames
        of the file; None where the recording is shorter), `mean_frame_mse`; MSE in [0, 1] pixels; `sheet`.

    Raises:
        DatasetError: The file is missing, broken or of the wrong kind, or the sheet cannot be written.
    """
    with open_frames(path) as dataset:
        file = dataset.file
        count, height, width, _ = dataset.shape
        game = game_of(path)
        if sheet:
            contact_sheet(dataset, stride_of(None, game), sheet)
        passed = _Passes(progress, 2 * count)
        duplicates, repeats, mean = _compared(passed, dataset)
        return {
            "path": str(path),
            "frames": count,
            "height": height,
            "width": width,
            "size_bytes": path.stat().st_size,
            "compressed": dataset.compression is not None,
            "fingerprint": fingerprint(dataset),
            "attributes": {key: np.asarray(value).tolist() for key, value in file.attrs.items()},
            "actions": None if (actions := _known(file, "actions")) is None else len(np.unique(actions)),
            "episodes": None if (starts := _known(file, "episode_starts")) is None else starts.size,
            "duplicate_share": duplicates / count,
            "repeat_share": repeats / count,
            "frame_rate": frame_rate(_stated_rate(file), game),
            **_errors(passed, dataset, mean),
            "sheet": str(sheet) if sheet else None,
        }


def frame_rate(stated: float | None, game: str) -> dict[str, Any]:
    """What is known of a recording's rate, and how training reads it.

    Args:
        stated: Frames per second of the game, as the file states it.
        game: Decides, with `fps` of the training configuration, which frames are read.

    Returns:
        `stated`; `read_by_default` and `read_at_fps_60`, each with `stride` (every how many-th frame is read)
        and `per_second` (frames read per second of the game, None if the rate is not stated); `advice`: the
        `fps` whose samples come nearest to 15 frames per second, None if that is not known or not in our
        hands.
    """

    def reading(fps: int | None) -> dict[str, Any]:
        stride = stride_of(fps, game)
        return {"stride": stride, "per_second": stated / stride if stated else None}

    stride = max(1, round(stated / DEFAULT_FPS)) if stated else None
    free = stride is not None and stride_of(FULL_RATE // stride, game) == stride
    return {
        "stated": stated,
        "read_by_default": reading(None),
        "read_at_fps_60": reading(FULL_RATE),
        "advice": FULL_RATE // stride if stride and free else None,
    }


def frame_digest(frame: Frames) -> bytes:
    """What tells two frames apart, 16 bytes."""
    return hashlib.blake2b(frame.tobytes(), digest_size=16).digest()


def mean_frame(frames: Any) -> npt.NDArray[np.float64]:
    """The mean of all frames, [H, W, 3] in [0, 1]."""
    total = np.zeros(frames.shape[1:], np.uint64)
    for block in blocks(frames):
        total += block.sum(axis=0, dtype=np.uint64)
    return total / (255.0 * len(frames))


class _Passes:
    """Small pieces of a recording, pass after pass, and how far that is."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def over(self, frames: Any) -> Iterator[Frames]:
        for block in blocks(frames):
            for start in range(0, len(block), PIECE):
                piece = block[start : start + PIECE]
                yield piece
                self._done += len(piece)
                if self._progress:
                    self._progress(self._done, self._total)


def _compared(passed: _Passes, frames: Any) -> tuple[int, int, npt.NDArray[np.float64]]:
    """Frames that occurred before, those equal to their predecessor, and the mean of all."""
    seen: set[bytes] = set()
    last, repeats = b"", 0
    total = np.zeros(frames.shape[1:], np.uint64)
    for piece in passed.over(frames):
        total += piece.sum(axis=0, dtype=np.uint64)
        for frame in piece:
            digest = frame_digest(frame)
            repeats += digest == last
            seen.add(digest)
            last = digest
    return len(frames) - len(seen), repeats, total / (255.0 * len(frames))


def _errors(passed: _Passes, frames: Any, mean: npt.NDArray[np.float64]) -> dict[str, Any]:
    """MSE of predicting the frame some steps before, and of predicting the mean frame."""
    sums, pairs = dict.fromkeys(PERSISTENCE_STEPS, 0.0), dict.fromkeys(PERSISTENCE_STEPS, 0)
    of_mean = 0.0
    kept: Frames = np.empty((0, *frames.shape[1:]), np.uint8)
    for piece in passed.over(frames):
        of_mean += float(np.square(piece / 255.0 - mean).sum())
        joined = np.concatenate([kept, piece])
        for steps in PERSISTENCE_STEPS:
            new = joined[max(len(kept), steps) :]
            if len(new):
                change = new.astype(np.int32) - joined[len(joined) - len(new) - steps : -steps]
                sums[steps] += float(np.square(change).sum(dtype=np.float64)) / 255**2
                pairs[steps] += change.size
        kept = joined[-max(PERSISTENCE_STEPS) :]
    return {
        "persistence_mse": {s: sums[s] / pairs[s] if pairs[s] else None for s in PERSISTENCE_STEPS},
        "mean_frame_mse": of_mean / float(np.prod(frames.shape)),
    }


def _known(file: Any, name: str) -> npt.NDArray[Any] | None:
    found = dataset_in(file, name)
    usable = found is not None and np.issubdtype(found.dtype, np.integer) and too_large(found) is None
    return np.asarray(found) if usable and found.size <= len(file[DATASET]) else None


def _stated_rate(file: Any) -> float | None:
    stated = file.attrs.get("fps")
    told = isinstance(stated, int | float | np.floating | np.integer) and 0 < stated < math.inf
    return float(stated) if told else None
