"""Videos made by the tests: picture i is grey of level `level(i)`, so a decoded frame tells which it was."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np

MILLISECONDS = Fraction(1, 1000)


def level(index: int) -> int:
    return index * 3 % 256


def made(
    path: Path,
    count: int,
    *,
    rate: int = 30,
    size: tuple[int, int] = (32, 24),
    codec: str = "ffv1",
    at_ms: Sequence[int] | None = None,
    index_first: bool = False,
    gop: int = 12,
) -> Path:
    """A video of `count` pictures, [width, height]; at the given times, or at a steady rate."""
    options = {"movflags": "faststart"} if index_first else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.gop_size = gop
        if at_ms:
            stream.codec_context.time_base = MILLISECONDS
        for index in range(count):
            image = np.full((size[1], size[0], 3), level(index), np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = at_ms[index] if at_ms else index
            if at_ms:
                frame.time_base = MILLISECONDS
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def levels(path: Path) -> list[int]:
    """The level of each frame of a frames file, after a look that it is plain."""
    with h5py.File(path) as file:
        frames = file["frames"][:]
    assert (frames == frames[:, :1, :1, :1]).all()
    return frames[:, 0, 0, 0].tolist()
