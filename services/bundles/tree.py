"""The files below a directory as they are: no link is followed, and what is no file is refused."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from services.bundles.core.manifest import Manifest
from shared.bundle import sync_directory
from shared.errors import BundleError

BLOCK = 1 << 20
SECTOR = 512
"""Unit of `st_blocks`, whatever the file system."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, directory or symbolic link. Two are equal when nothing was changed in between."""

    path: str
    """Relative to the directory, with `/`."""
    mode: int
    size: int
    """Bytes; 0 for a directory."""
    modified: int
    """Nanoseconds; 0 for a directory: what changes there is seen in its entries."""
    identity: tuple[int, int]
    """Device and inode: the same for hard links to one file."""
    links: int
    """Hard links, also those elsewhere."""
    allocated: int
    """Bytes on the disk: less than `size` where the file has holes."""
    target: str | None = None
    """Where a symbolic link leads."""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)


def scan(root: Path) -> list[Entry]:
    """All that lies below a directory, a directory before what it holds.

    Raises:
        BundleError: Something is no file, directory or link, or cannot be read; names all of it.
    """
    found: list[Entry] = []
    refused: list[str] = []
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            names = sorted(each.name for each in (root / folder).iterdir())
        except OSError as error:
            refused.append(f"{root / folder} cannot be read ({error.strerror})")
            continue
        for name in names:
            entry = _entry(root, f"{folder}/{name}" if folder else name)
            found.append(entry)
            if entry.is_directory:
                folders.append(entry.path)
            elif not entry.is_file and not entry.is_link:
                refused.append(f"{root / entry.path} is no file, directory or link")
            elif entry.is_file and not os.access(root / entry.path, os.R_OK):
                refused.append(f"{root / entry.path} cannot be read (no permission)")
    if refused:
        raise BundleError("; ".join(refused))
    return sorted(found, key=lambda entry: entry.path.split("/"))


def checksum(path: Path) -> str:
    """SHA-256 of a regular file.

    Raises:
        OSError: It cannot be read, or is a symbolic link.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(descriptor, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def survey(root: Path, entries: Iterable[Entry] | None = None) -> Manifest:
    """Checksums of all files below a directory.

    Raises:
        BundleError: Something cannot be read.
    """
    entries = scan(root) if entries is None else list(entries)
    try:
        files = {entry.path: checksum(root / entry.path) for entry in entries if entry.is_file}
    except OSError as error:
        raise unreadable(error) from error
    return Manifest(files, {entry.path: entry.target for entry in entries if entry.target is not None})


def usage(entries: Iterable[Entry]) -> int:
    """Bytes on the disk, each file once however many hard links it has."""
    return sum({entry.identity: entry.allocated for entry in entries if entry.is_file}.values())


def remove(root: Path) -> None:
    """Delete a directory and all below it, also where it is write-protected; no link is followed.

    Raises:
        OSError: The disk refused; what is left can be removed again.
    """
    for folder, folders, names in os.walk(root):
        Path(folder).chmod(stat.S_IRWXU)
        for name in [*names, *(each for each in folders if (Path(folder) / each).is_symlink())]:
            (Path(folder) / name).unlink()
    for folder, _, _ in os.walk(root, topdown=False):
        Path(folder).rmdir()
    sync_directory(root.parent)


def unreadable(error: OSError) -> BundleError:
    """The error for a person of something that cannot be read."""
    return BundleError(f"{error.filename} cannot be read: {error.strerror}")


def _entry(root: Path, path: str) -> Entry:
    about = (root / path).lstat()
    folder = stat.S_ISDIR(about.st_mode)
    return Entry(
        path,
        about.st_mode,
        0 if folder else about.st_size,
        0 if folder else about.st_mtime_ns,
        (about.st_dev, about.st_ino),
        1 if folder else about.st_nlink,
        getattr(about, "st_blocks", about.st_size // SECTOR + 1) * SECTOR,
        str((root / path).readlink()) if stat.S_ISLNK(about.st_mode) else None,
    )


def is_full(error: OSError) -> bool:
    """Whether it was room that was missing."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
