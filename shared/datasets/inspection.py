"""What is in a recording, and what an MSE limit would mean on it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.datasets.mapping import Frames, blocks, fingerprint, open_frames

PERSISTENCE_STEPS = (1, 4, 12)


def inspect(path: Path) -> dict[str, Any]:
    """Shape, duplicates and baselines of a recording, in one pass per number and little memory.

    Returns:
        `path, frames, height, width, size_bytes` (the file's), `compressed, fingerprint, attributes` (as the
        recorder left them), `actions` (distinct true actions, or None), `episodes` (or None),
        `duplicate_share` (frames that occurred before, 0..1), `persistence_mse` (per distance 1, 4, 12 in
        frames of the file; None where the recording is shorter), `mean_frame_mse`; MSE in [0, 1] pixels.

    Raises:
        DatasetError: The file is missing, broken or of the wrong kind.
    """
    with open_frames(path) as dataset:
        file = dataset.file
        count, height, width, _ = dataset.shape
        return {
            "path": str(path),
            "frames": count,
            "height": height,
            "width": width,
            "size_bytes": path.stat().st_size,
            "compressed": dataset.compression is not None,
            "fingerprint": fingerprint(dataset),
            "attributes": {key: np.asarray(value).tolist() for key, value in file.attrs.items()},
            "actions": len(np.unique(file["actions"])) if "actions" in file else None,
            "episodes": len(file["episode_starts"]) if "episode_starts" in file else None,
            "duplicate_share": _duplicate_share(dataset),
            "persistence_mse": _persistence(dataset),
            "mean_frame_mse": _mean_frame_mse(dataset),
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


def _duplicate_share(frames: Any) -> float:
    seen = {frame_digest(frame) for block in blocks(frames) for frame in block}
    return 1 - len(seen) / len(frames)


def _mean_frame_mse(frames: Any) -> float:
    mean = mean_frame(frames)
    total = sum(float(np.square(block / 255.0 - mean).sum()) for block in _small(frames))
    return total / float(np.prod(frames.shape))


def _persistence(frames: Any) -> dict[int, float | None]:
    found: dict[int, float | None] = {}
    for distance in PERSISTENCE_STEPS:
        pairs, total = 0, 0.0
        kept: Frames | None = None
        for block in _small(frames):
            joined = block if kept is None else np.concatenate([kept, block])
            if len(joined) > distance:
                change = joined[distance:].astype(np.int32) - joined[:-distance]
                total += float(np.square(change).sum(dtype=np.float64)) / 255**2
                pairs += change.size
            kept = joined[-distance:]
        found[distance] = total / pairs if pairs else None
    return found


def _small(frames: Any) -> Any:
    for block in blocks(frames):
        for start in range(0, len(block), 64):
            yield block[start : start + 64]
