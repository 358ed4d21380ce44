"""Records of equal size in one file, which any number of processes read and fill at once.

A record is stored behind a seal, a digest of its place and its content, and is there exactly when the seal
is right. So nothing is locked, ordered or synced: a writer killed at any byte, a power loss that kept any
part of what was written, and a damaged disk all leave a record that is not there. Writers of one record
write the same bytes, whoever comes first. Reads and writes are calls, not a memory map, so that a full or
failing disk is an `OSError` here and not the end of the process; the system's page cache keeps in memory
what is read often.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SEAL = 8
"""Bytes of a seal."""
SPARE_BYTES = 1 << 30
"""Disk space that a file of records leaves for others."""


class Records:
    """An open file of records; it grows as they are written.

    Args:
        path: The file; made if it is missing. That it was used shows in its modification time.
        size: Bytes of a record.

    Raises:
        OSError: The file cannot be made or opened; so do `read` and `write` when the disk fails.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._size, self._step = size, SEAL + size
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.utime(self._file)

    def read(self, index: int) -> bytes | None:
        """The record of this number; none if it was not written, or not wholly."""
        stored = os.pread(self._file, self._step, index * self._step)
        record = stored[SEAL:]
        return record if len(stored) == self._step and stored[:SEAL] == _seal(index, record) else None

    def write(self, index: int, record: bytes) -> None:
        """Put a record in its place."""
        assert len(record) == self._size
        written = os.pwrite(self._file, _seal(index, record) + record, index * self._step)
        if written < self._step:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Read and write no more."""
        os.close(self._file)


def make_room(path: Path, *, records: int, size: int, limit_bytes: int) -> str | None:
    """See to it that a file of records has its place on the disk.

    All files of its folder together stay below the limit: those that nobody opened for longest are deleted.
    Who has one open can go on with it.

    Args:
        path: The file, there already or not.
        records: How many it will hold.
        size: Bytes of each.
        limit_bytes: For the folder.

    Returns:
        Why there is no place for it; none when there is.

    Raises:
        OSError: The folder cannot be made or read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    needed = records * (SEAL + size)
    if needed > limit_bytes:
        return f"it needs {_gb(needed)}, and {_gb(limit_bytes)} are allowed"
    others = [each for each in _files(path.parent) if each.path != path]
    total = needed + sum(each.size for each in others)
    for each in sorted(others, key=lambda each: each.used_ns):
        if total <= limit_bytes:
            break
        each.path.unlink(missing_ok=True)
        total -= each.size
    there = sum(each.on_disk for each in _files(path.parent) if each.path == path)
    free = shutil.disk_usage(path.parent).free
    if free + there < needed + SPARE_BYTES:
        return f"it needs {_gb(needed - there)} and {_gb(SPARE_BYTES)} to spare, and the disk has {_gb(free)}"
    return None


class _File(NamedTuple):
    path: Path
    used_ns: int
    size: int
    on_disk: int
    """Bytes the disk really holds; what was not written yet takes no room."""


def _files(folder: Path) -> Iterator[_File]:
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # somebody else makes room too
            about = path.stat()
            yield _File(path, about.st_mtime_ns, about.st_size, about.st_blocks * 512)


def _seal(index: int, record: bytes) -> bytes:
    return hashlib.blake2b(record, digest_size=SEAL, salt=index.to_bytes(16, "little")).digest()


def _gb(number: int) -> str:
    return f"{number / 1e9:.1f} GB"
