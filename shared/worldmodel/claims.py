"""What a torch file claims to hold, looked at before it is read: a small one may stand for more than fits.

A zip's members may be compressed, or lie on top of each other. And a tuple made of one tuple twice, sixty
times over, takes a few hundred bytes; as the key of a dict it is hashed part by part, for ever.
"""

from __future__ import annotations

import io
import itertools
import mmap
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from shared.errors import CheckpointError

PICKLE = "data.pkl"
"""End of the name of the pickle in a zip; torch does not look at its case."""
OLD_PICKLES = 5
"""At the head of a file that is no zip: magic number, version, system, content, names of the storages."""
MOST_IN_TUPLE = 10_000
"""Values in a tuple and the tuples in it; what makes a tensor takes a dozen."""
MARK = 0


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
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(each.file_size for each in members) > size:
                raise CheckpointError(f"{path} is refused: unpacked it would be larger than it is")
            for each in members:
                if each.filename.lower().endswith(PICKLE):
                    yield io.BytesIO(archive.read(each))
    else:
        # mapped: asked for more bytes than there are, it gives those there are, and takes no memory before
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            yield from itertools.repeat(cast("IO[bytes]", mapped), OLD_PICKLES)  # all that a pickle asks for


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
