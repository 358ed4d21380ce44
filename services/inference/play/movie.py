"""A session as an mp4, encoded while it is played."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO

import av
import numpy as np

from shared.datasets.mapping import Frames

SMALLEST = 384
"""Pixels a side, at least: colours are stored at half the resolution, so small frames are enlarged first."""
LARGEST = 32 * 2**20
"""Bytes after which a recording is full: an hour of a 64x64 game at 10 frames per second, ten minutes at 60,
a minute of noise."""
CODECS = (("libx264", {"crf": "18", "preset": "veryfast"}), ("mpeg4", {"qscale": "3"}))
"""The first that this build of PyAV has."""
EncoderError = av.FFmpegError
"""What an encoder raises."""


class Movie:
    """An mp4 that grows frame by frame, in memory.

    Args:
        size: Height and width of the frames, pixels.
        fps: Frames per second.

    Raises:
        EncoderError: Here or later, the encoder refuses.
    """

    def __init__(self, size: int, fps: float) -> None:
        self.frames = 0
        self._factor = max(1, -(-SMALLEST // size))
        self._factor += size * self._factor % 2  # h264 wants even sizes
        codec, options = next((each for each in CODECS if each[0] in av.codecs_available), CODECS[0])
        self._file = BytesIO()
        self._container = av.open(self._file, "w", format="mp4")
        self._stream = self._container.add_stream(
            codec, rate=Fraction(fps).limit_denominator(1000), options=options
        )
        self._stream.width = self._stream.height = size * self._factor
        self._stream.pix_fmt = "yuv420p"

    @property
    def full(self) -> bool:
        """Whether it must be finished."""
        return self._file.tell() >= LARGEST

    def add(self, frame: Frames) -> None:
        """Append a frame, uint8 [H, W, 3]."""
        large = np.ascontiguousarray(frame.repeat(self._factor, 0).repeat(self._factor, 1))
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(large, format="rgb24")))
        self.frames += 1

    def finish(self) -> bytes:
        """The whole file; nothing can be added any more."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._file.getvalue()
