"""A test's film: mp4 for people's players, animated webp for where no video plays."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from shared.bundle import write_atomic

RATE = 4
"""Pictures per second: slow enough to compare them."""
QUALITY = {"crf": "18"}


def write_video(path: Path, pictures: Iterable[Image.Image]) -> None:
    """Write pictures of one even size as mp4 (H.264).

    Raises:
        ImportError: PyAV is not installed.
        av.error.FFmpegError, ValueError: Its encoder failed or is missing.
        OSError: The disk refused; readers never see a part of the file.
    """
    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4") as container:
        track = None
        for picture in pictures:
            if track is None:
                track = container.add_stream("libx264", rate=RATE, options=QUALITY)
                track.width, track.height, track.pix_fmt = *picture.size, "yuv420p"
            container.mux(track.encode(av.VideoFrame.from_image(picture)))
        if track is not None:
            container.mux(track.encode())
    write_atomic(path, stream.getvalue())


def write_preview(path: Path, pictures: Iterable[Image.Image]) -> None:
    """Write pictures as animated webp that repeats for ever.

    Raises:
        OSError: The disk refused, or pillow cannot write webp; readers never see a part of the file.
    """
    first, *others = pictures
    stream = io.BytesIO()
    first.save(
        stream, "WEBP", save_all=True, append_images=others, duration=1000 // RATE, loop=0, lossless=True
    )
    write_atomic(path, stream.getvalue())
