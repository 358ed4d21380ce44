"""What a torch file claims to hold, looked at before it is read: a small one may stand for more than fits.

A zip's members may be compressed, or lie on top of each other; and where its end is ambiguous, torch may read
other members than were looked at. And a tuple made of one tuple twice, sixty
times over, takes a few hundred bytes; as the key of a dict it is hashed part by part, for ever.
"""

from __future__ import annotations

import io
import itertools
import mmap
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from shared.errors import CheckpointError

PICKLE = "data.pkl"
"""End of the name of the pickle in a zip; torch does not look at its case."""
END = struct.Struct("<4s4H2LH")
"""The end of a zip: length and begin of the list of its members, last the length of a comment."""
END_64, LOCATOR = struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
"""What may stand before it: the same for large files, length and begin last; and where that is, third."""
LOCATED = b"PK\x06\x07"
OLD_PICKLES = 5
"""At the head of a file that is no zip: magic number, version, system, content, names of the storages."""
MOST_IN_TUPLE = 10_000
"""Values in a tuple and the tuples in it; what makes a tensor takes a dozen."""
MARK = 0
ZIP = b"PK\x03\x04"
"""By these bytes at its begin alone torch tells a zip: an archive behind a pickle is nothing to it."""


def check_claims(path: Path) -> int:
    """Look at a torch file without making anything of what it holds; its size in bytes.

    Raises:
        CheckpointError: It stands for more than it has; torch writes no such file.
        OSError: It cannot be read.
        Exception: It is damaged, as readers of zips and pickles say it.
    """
    size = path.stat().st_size
    if any(_largest_tuple(stream) > MOST_IN_TUPLE for stream in _pickles(path, size)):
        raise CheckpointError(f"{path} is refused: reading the tuples of tuples in it would never end")
    return size


def _pickles(path: Path, size: int) -> Iterator[IO[bytes]]:
    """Streams that stand at the begin of a pickle of the file."""
    if _is_zip(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if not _is_plain(path, size):
                raise CheckpointError(f"{path} is refused: its list of members is not where its end is")
            if sum(each.file_size for each in members) > size:
                raise CheckpointError(f"{path} is refused: unpacked it would be larger than it is")
            for each in members:
                if each.filename.lower().endswith(PICKLE):
                    yield io.BytesIO(archive.read(each))
    else:
        # mapped: asked for more bytes than there are, it gives those there are, and takes no memory before
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield from itertools.repeat(cast("IO[bytes]", mapped), OLD_PICKLES)  # all that a pickle asks for


def _is_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(ZIP)) == ZIP


def _is_plain(path: Path, size: int) -> bool:
    """Whether a zip's list of members lies right before its end, and the end at that of the file."""
    with path.open("rb") as stream:
        stream.seek(max(size - END.size - LOCATOR.size - END_64.size, 0))
        tail = stream.read()
    *_, length, begin, comment = END.unpack(tail[-END.size :])
    list_end = size - END.size
    locator = tail[: -END.size][-LOCATOR.size :]
    if locator.startswith(LOCATED):
        list_end -= LOCATOR.size + END_64.size
        if LOCATOR.unpack(locator)[2] != list_end:
            return False
        *_, length, begin = END_64.unpack(tail[: END_64.size])
    return comment == 0 and bool(begin + length == list_end)


def _largest_tuple(stream: IO[bytes]) -> int:
    """Values in the largest tuple of a pickle, those in its tuples among them."""
    stack: list[int] = []
    memo: dict[object, int] = {}
    largest = 0
    for code, argument, _ in pickletools.genops(stream):
        if "PUT" in code.name:
            memo[argument] = stack[-1]
        elif "GET" in code.name:
            stack.append(memo[argument])
        elif code.name == "MARK":
            stack.append(MARK)
        else:
            taken = _take(stack, code)
            made = 1 + sum(taken) if code.name.startswith("TUPLE") else 1
            stack += [made] * len(code.stack_after)
            largest = max(largest, made)
            if largest > MOST_IN_TUPLE:
                break
    return largest


def _take(stack: list[int], code: pickletools.OpcodeInfo) -> list[int]:
    """What an instruction takes off the stack."""
    wanted = code.stack_before
    if pickletools.markobject in wanted:
        below = wanted.index(pickletools.markobject)
        at = len(stack) - stack[::-1].index(MARK) - 1 - below
    else:
        at = len(stack) - len(wanted)
    taken = stack[at:]
    del stack[at:]
    return taken
