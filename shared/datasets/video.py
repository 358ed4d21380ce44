"""Reading a video file picture by picture with PyAV, in little memory, past what is damaged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from shared.datasets.mapping import Frames
from shared.errors import DatasetError

CUT_SHORT_SEC = Fraction(1)
"""Pictures that end this long before the length a file declares show that it is cut short."""
HIGHEST_RATE = 1000
"""A file that declares more pictures a second does not tell its rate."""


class Picture(NamedTuple):
    """A picture of a video, not yet converted."""

    at: Fraction
    """Seconds since the video's beginning."""
    frame: Any

    def image(self) -> Frames:
        """The picture, uint8 [height, width, 3], turned as a player would show it."""
        converted: Frames = self.frame.to_ndarray(format="rgb24")
        return np.rot90(converted, round(self.frame.rotation / 90))


class Video:
    """An open video; use it as a context.

    Args:
        path: mp4 and whatever else FFmpeg reads; its first video stream is read.

    Raises:
        DatasetError: PyAV is not installed, or the file is missing, is no video, or has no video stream.
    """

    def __init__(self, path: Path) -> None:
        try:
            import av
        except ImportError as error:
            raise DatasetError(
                f"{path}: reading a video needs av. Install it: pip install 'worldloop[data]'"
            ) from error
        if not path.is_file():
            raise DatasetError(f"{path}: no such video")
        self._broken: type[Exception] = av.FFmpegError
        try:
            # absolute: a name with a colon alone would be an address
            self._container = av.open(str(path.absolute()), metadata_errors="replace")
        except av.FFmpegError as error:
            raise DatasetError(
                f"{path}: cannot be read as a video ({error.strerror}). It is none, or is cut short before "
                "its index, which an mp4 often has at its end: get it again, or let a video tool repair it"
            ) from error
        streams = [each for each in self._container.streams.video if not _is_cover(each)]
        if not streams:
            found = ", ".join(sorted({each.type for each in self._container.streams})) or "nothing"
            self._container.close()
            raise DatasetError(
                f"{path}: has no video stream (it holds: {found}). Give the file of the video, or get it "
                "again if it is cut short"
            )
        self._stream = streams[0]
        # Not by frames: what then is kept around damage depends on the number of cores.
        self._stream.thread_type = "SLICE"
        self.path = path
        self.undecoded = 0
        """Pictures that could not be decoded, so far."""
        self.damage: list[str] = []
        """What ended the reading before the end, so far."""
        self._until = Fraction(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._container.close()

    @property
    def rate(self) -> Fraction | None:
        """Pictures per second on average, as the file declares; none if it does not."""
        declared = self._stream.average_rate or self._stream.guessed_rate
        return declared if declared and 0 < declared <= HIGHEST_RATE else None

    @property
    def size(self) -> str:
        """`WIDTHxHEIGHT`, as the file declares it."""
        return f"{self._stream.width}x{self._stream.height}"

    @property
    def seconds(self) -> Fraction | None:
        """Length that the file declares, seconds; none if it does not."""
        if self._stream.duration:
            return Fraction(self._stream.duration * self._stream.time_base)
        return Fraction(self._container.duration, 1_000_000) if self._container.duration else None

    def pictures(self, start: Fraction = Fraction(0)) -> Iterator[Picture]:
        """Pictures from `start` seconds on, in the order they are shown.

        Those that cannot be decoded are counted and left out; a file that breaks off ends the pictures.
        """
        base = self._stream.time_base
        begins = (self._stream.start_time or 0) * base
        if start:
            # What cannot be searched, or not that far, is read from its beginning.
            with contextlib.suppress(self._broken, OverflowError):
                self._container.seek(int((begins + start) / base), stream=self._stream)
        at = Fraction(0)
        for frame in self._frames():
            at = at + self._interval if frame.pts is None else frame.pts * base - begins
            self._until = at + (frame.duration * base or self._interval)
            if at >= start:
                yield Picture(at, frame)
        self._note_missing_end()

    @property
    def _interval(self) -> Fraction:
        return 1 / (self.rate or Fraction(30))

    def _frames(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        for packet in self._until_broken(packets):
            try:
                frames = self._stream.decode(packet)
            except self._broken:
                self.undecoded += 1
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.undecoded += 1
                else:
                    yield frame

    def _until_broken(self, packets: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from packets  # the last one is empty, and makes the decoder give what it has kept back
        except self._broken as error:
            self.damage.append(f"reading stopped before the end ({getattr(error, 'strerror', error)})")
            yield None

    def _note_missing_end(self) -> None:
        missing = (self.seconds or 0) - self._until
        allowed = 3 * self._interval if self._stream.duration else CUT_SHORT_SEC
        if missing > allowed and not self.damage:
            self.damage.append(
                f"it is cut short: {float(self.seconds or 0):.1f} s are declared, its pictures end at "
                f"{float(self._until):.1f} s"
            )


def _is_cover(stream: Any) -> bool:
    """Whether a video stream is a picture attached to a sound file."""
    return "attached_pic" in stream.disposition.name if stream.disposition else False
