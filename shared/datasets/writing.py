"""A frames file in the making: frames come one by one, the file appears complete or not at all.

Frames are area-resized to a square and spooled to a nameless file on the target's disk, because a contiguous
HDF5 dataset, which is what can be memory-mapped, must know its length before it is written. Memory does not
grow with the recording; disk space is needed twice until the file is in place. The file (datasets of one
recording):

    frames          uint8 [N, size, size, 3], contiguous
    actions         int64 [N], the action of the step that led to each frame; absent where it is not known
    episode_starts  int64 [episodes], index of the first frame of each episode; absent in a video
    attributes      where the frames came from; `fps`, frames per second of the game, where it is known
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
import numpy.typing as npt
from PIL import Image

from shared.datasets.mapping import BLOCK_BYTES, DATASET, Frames, fingerprint
from shared.errors import DatasetError


class FramesFile:
    """A frames file being written; use it as a context, and `finish` it.

    Args:
        path: The file; its directory is made.
        size: Height and width of a kept frame, pixels.
        overwrite: Replace an existing file.

    Raises:
        DatasetError: The file exists already, is no file, or cannot be written; so do `add` and `finish`.
    """

    def __init__(self, path: Path, *, size: int, overwrite: bool = False) -> None:
        self.path, self.size, self.frames = path, size, 0
        try:
            if path.exists() and not path.is_file():
                raise DatasetError(f"{path}: is no file that could be replaced. Name another one")
            if path.exists() and not overwrite:
                raise DatasetError(
                    f"{path}: exists already. Remove it, name another file, or use --overwrite"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            self._whole = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            self._spool = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - closed in __exit__
        except OSError as error:
            raise self._unwritable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # what did not fit on the disk; `add` or `finish` have said so
            self._spool.close()
        self._whole.unlink(missing_ok=True)

    def add(self, image: Frames, *, times: int = 1) -> None:
        """Append an image, uint8 [height, width, 3] of any size, area-resized, this many times."""
        square = (self.size, self.size)
        kept = Image.fromarray(image).resize(square, Image.Resampling.BOX).tobytes()
        try:
            for _ in range(times):
                self._spool.write(kept)
        except OSError as error:
            raise self._unwritable(error) from error
        self.frames += times

    def finish(self, about: dict[str, Any], **datasets: npt.NDArray[np.int64]) -> str:
        """Put the file in its place; its fingerprint.

        Args:
            about: Attributes; of text, what is not Unicode (in a file's name) is escaped.
            datasets: What else is known, such as actions, one array each.
        """
        shape = (self.frames, self.size, self.size, 3)
        try:
            self._spool.flush()
            with h5py.File(self._whole, "w") as file:
                pixels = file.create_dataset(DATASET, shape, np.uint8)
                spooled = np.memmap(self._spool, np.uint8, "r", 0, shape)
                step = max(1, BLOCK_BYTES // (self.size * self.size * 3))
                for start in range(0, self.frames, step):
                    pixels[start : start + step] = spooled[start : start + step]
                for name, values in datasets.items():
                    file[name] = values
                file.attrs.update({key: _unicode(value) for key, value in about.items()})
                digest = fingerprint(pixels)
            with self._whole.open("rb") as written:
                os.fsync(written.fileno())
            self._whole.replace(self.path)
        except OSError as error:
            raise self._unwritable(error) from error
        return digest

    def _unwritable(self, error: OSError) -> DatasetError:
        why = os.strerror(error.errno) if error.errno else error  # HDF5's own text has pages
        return DatasetError(f"{self.path}: cannot be written ({why}). Free disk space or name another file")


def _unicode(value: Any) -> Any:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
