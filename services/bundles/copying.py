"""Copies of directories, through to the disk and resumable: what a killed copy left whole stays.

Links stay links, hard links among the files stay hard links where the target can, holes stay holes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from services.bundles.core.manifest import Fault, Manifest
from services.bundles.tree import BLOCK, Entry, checksum, scan
from shared.bundle import sync_directory
from shared.errors import BundleError

PART = ".part"
"""End of the hidden name under which a file is being copied."""


def missing_bytes(target: Path, entries: Sequence[Entry]) -> int:
    """Room on the disk that a copy still takes."""
    wanted = {
        entry.identity: min(entry.allocated, entry.size + BLOCK)
        for entry in entries
        if entry.is_file and not _is_there(target / entry.path, entry)
    }
    return sum(wanted.values())


def copy(source: Path, target: Path, entries: Sequence[Entry]) -> Manifest:
    """Copy what was scanned, and go on with a copy that was cut.

    Args:
        source: The directory.
        target: Its copy; what is there and whole stays.
        entries: What `scan` found in the source.

    Returns:
        Checksums of the source's files, as they were read.

    Raises:
        BundleError: The target holds what the source does not.
        OSError: A disk refused; the source is as it was.
    """
    target.mkdir(parents=True, exist_ok=True)
    _clear(target, entries)
    digests: dict[tuple[int, int], str] = {}
    first: dict[tuple[int, int], Path] = {}
    files: dict[str, str] = {}
    for entry in entries:
        place = target / entry.path
        if entry.is_directory:
            place.mkdir(exist_ok=True)
        elif entry.target is not None:
            _link(place, entry.target)
        elif entry.identity in first:
            _again(first[entry.identity], place, entry)
            files[entry.path] = digests[entry.identity]
        else:
            there = _is_there(place, entry)
            files[entry.path] = checksum(source / entry.path) if there else _copy(source / entry.path, place)
            digests[entry.identity], first[entry.identity] = files[entry.path], place
    for entry in reversed(entries):
        if entry.is_directory:
            sync_directory(target / entry.path)
            shutil.copystat(source / entry.path, target / entry.path)
    sync_directory(target)
    shutil.copystat(source, target)
    return Manifest(files, {entry.path: entry.target for entry in entries if entry.target is not None})


def _copy(source: Path, target: Path) -> str:
    """Copy a file; its checksum as it was read."""
    part = target.with_name(f".{target.name}{PART}")
    digest = hashlib.sha256()
    try:
        with source.open("rb") as reading, part.open("wb") as writing:
            while block := reading.read(BLOCK):
                digest.update(block)
                if block.count(0) == len(block):
                    writing.seek(len(block), os.SEEK_CUR)
                else:
                    writing.write(block)
            writing.truncate()
            writing.flush()
            os.fsync(writing.fileno())
            if hasattr(os, "posix_fadvise"):  # what is read back comes from the disk, not from memory
                os.posix_fadvise(writing.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError:
        with contextlib.suppress(OSError):  # a full or lost disk: what failed is told, not this
            part.unlink(missing_ok=True)
        raise
    shutil.copystat(source, part)
    part.replace(target)
    return digest.hexdigest()


def _again(first: Path, place: Path, entry: Entry) -> None:
    """Another name of a file that was copied."""
    with contextlib.suppress(FileNotFoundError):
        if place.samefile(first):
            return
        place.unlink()
    try:
        os.link(first, place)
    except OSError:  # a file system without hard links
        if not _is_there(place, entry):
            _copy(first, place)


def _link(place: Path, target: str) -> None:
    if place.is_symlink():
        if str(place.readlink()) == target:
            return
        place.unlink()
    place.symlink_to(target)


def _is_there(place: Path, entry: Entry) -> bool:
    """Whether a file was copied to its end: it has its name, and size and time were set before that."""
    try:
        about = place.lstat()
    except FileNotFoundError:
        return False
    return (about.st_size, about.st_mtime_ns) == (entry.size, entry.modified)


def _clear(target: Path, entries: Sequence[Entry]) -> None:
    """Remove parts of files that a killed copy left.

    Raises:
        BundleError: Something else is there that the source does not have.
    """
    known = {entry.path: entry for entry in entries}
    foreign: list[Fault] = []
    for entry in scan(target):
        expected = known.get(entry.path)
        if expected is not None and (expected.is_directory, expected.is_link) == (
            entry.is_directory,
            entry.is_link,
        ):
            continue
        if entry.is_file and Path(entry.path).name.endswith(PART):
            (target / entry.path).unlink()
        else:
            foreign.append(Fault(entry.path, "is not in the source"))
    if foreign:
        raise BundleError(
            f"{target}, a copy that was begun, holds what the source does not (any more): "
            f"{', '.join(fault.path for fault in foreign[:5])}; look at it, remove "
            f"{target.parent}, and try again"
        )
