"""A video file as a frames file: decoded, brought to a steady rate, area-resized, one picture at a time.

A video's pictures have timestamps, and the time between two may vary. The kept frames have a steady rate: at
each tick of it the newest picture is kept, so that one that stays long is repeated, and pictures that come
faster than the ticks are dropped. At a steady video's own rate that keeps each picture exactly once.

Damage does not end the work: what cannot be decoded is left out (the picture before it stays), a file that is
cut short is kept up to the cut, and the summary and the file's attribute `damage` say so. The file is that of
`writing`, with no actions, and with these attributes: source and source_sha256 (of the video), source_fps,
source_size, start_sec, fps, damage, versions.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import takewhile
from pathlib import Path

from shared.datasets.progress import Progress
from shared.datasets.video import Picture, Video
from shared.datasets.writing import FramesFile
from shared.errors import DatasetError

LONGEST_STILL_SEC = 60
"""A picture that stays longer is taken for a leap of the timestamps."""
LATE_SEC = 2
"""A picture that comes after a newer one by no more is left out; by more, the timestamps leaped back."""


@dataclass(frozen=True, slots=True)
class IngestSummary:
    """What a video gave."""

    path: Path
    source: Path
    frames: int
    size: int
    fps: float
    """Kept frames per second of the video."""
    source_fps: float | None
    """The rate that the video declares."""
    source_size: str
    """`WIDTHxHEIGHT`, as the video declares it."""
    damage: tuple[str, ...]
    """What was wrong with the video, in sentences; empty for a whole one."""
    fingerprint: str


def ingest(
    video: Path,
    path: Path,
    *,
    size: int,
    fps: float | None = None,
    start: float = 0.0,
    end: float | None = None,
    frames: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> IngestSummary:
    """Make a frames file of a video. The file appears complete or not at all.

    Args:
        video: mp4 and whatever else FFmpeg reads; its first video stream is taken.
        path: File to write.
        size: Height and width of a kept frame, pixels; another shape is squeezed, not cropped.
        fps: Frames to keep per second of the video; none is the video's own average rate.
        start: Where to begin, seconds.
        end: Where to stop, seconds; none is the end.
        frames: Stop after this many kept frames; none is no limit.
        overwrite: Replace an existing file.
        progress: Called with milliseconds of video done and to do; the latter 0 if the video does not tell.

    Raises:
        DatasetError: PyAV is not installed; the video is missing, is none, has no video stream, does not tell
            its rate, or has no picture between `start` and `end` that can be decoded; the file exists, is
            the video itself, or cannot be written.
    """
    finite = all(math.isfinite(each) for each in (fps, start, end) if each is not None)
    if not finite or (fps is not None and fps <= 0) or start < 0 or (end is not None and end <= start):
        raise DatasetError("fps must be above 0, start at least 0, and end after start, all of them finite")
    with FramesFile(path, size=size, overwrite=overwrite) as file, Video(video) as source:
        if path.exists() and path.samefile(video):
            raise DatasetError(f"{path}: is the video itself. Name another file to write")
        rate = Fraction(str(fps)) if fps else source.rate
        if rate is None:
            raise DatasetError(f"{video}: does not tell its frame rate. Give one with --fps")
        begin, stop = Fraction(start), source.seconds if end is None else Fraction(end)
        timeline = Timeline(rate, source.rate or rate)
        pictures = takewhile(lambda each: end is None or each.at < end, source.pictures(begin))
        for picture, times in timeline.ticks(pictures):
            left = times if frames is None else min(times, frames - file.frames)
            if left:
                file.add(picture.image(), times=left)
            if progress:
                progress(round(1000 * (picture.at - begin)), round(1000 * (stop - begin)) if stop else 0)
            if file.frames == frames:
                break
        damage = (*source.damage, *_counted(source.undecoded + timeline.late, timeline.leaps))
        if not file.frames:
            raise DatasetError(
                f"{video}: no picture {_between(start, end)} could be decoded"
                f"{''.join(f'; {each}' for each in damage)}. Get it again, or choose another part"
            )
        about = {
            "source": video.name,
            "source_sha256": _sha256(video),
            "source_fps": float(source.rate or 0),
            "source_size": source.size,
            "start_sec": start,
            "fps": float(rate),
            "damage": json.dumps(damage),
            "versions": json.dumps({"av": importlib.metadata.version("av")}),
        }
        digest = file.finish(about)
        return IngestSummary(
            path=path,
            source=video,
            frames=file.frames,
            size=size,
            fps=float(rate),
            source_fps=float(source.rate) if source.rate else None,
            source_size=source.size,
            damage=damage,
            fingerprint=digest,
        )


class Timeline:
    """Pictures with timestamps on a steady rate.

    A picture counts from the first tick that is not more than half a picture's time before it, so timestamps
    that a container has rounded move none to another tick.

    Args:
        rate: Ticks per second.
        source_rate: Pictures per second, on average.
    """

    def __init__(self, rate: Fraction, source_rate: Fraction) -> None:
        self._rate, self._interval = rate, 1 / source_rate
        self._early = rate / (2 * max(rate, source_rate))
        self.leaps = 0
        """How often the timestamps leaped, so far."""
        self.late = 0
        """Pictures that came after a newer one, so far; damaged videos have them."""

    def ticks(self, pictures: Iterable[Picture]) -> Iterator[tuple[Picture, int]]:
        """Each picture and for how many ticks it is the newest; the last stays for a picture's time."""
        held: Picture | None = None
        tick, last, shift = 0, Fraction(0), Fraction(0)
        for picture in pictures:
            if held is None:
                shift = -picture.at
            elif -LATE_SEC <= picture.at + shift - last < 0:
                self.late += 1
                continue
            elif not 0 <= picture.at + shift - last <= LONGEST_STILL_SEC:
                self.leaps += 1
                shift = last + self._interval - picture.at
            last = picture.at + shift
            at = self._first_tick(last)
            if held is not None:
                yield held, at - tick
            held, tick = picture, at
        if held is not None:
            yield held, self._first_tick(last + self._interval) - tick

    def _first_tick(self, at: Fraction) -> int:
        return math.ceil(at * self._rate - self._early)


def _counted(left_out: int, leaps: int) -> Iterator[str]:
    if left_out:
        yield f"damaged pictures were left out: {left_out}"
    if leaps:
        yield f"leaps of its timestamps were closed: {leaps}"


def _between(start: float, end: float | None) -> str:
    return f"from {start:g} s on" if end is None else f"between {start:g} s and {end:g} s"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
