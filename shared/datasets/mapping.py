"""Frames of an h5 file as a read-only memory map, whatever the file's layout.

A contiguous dataset is mapped where it lies. A chunked or compressed one is streamed once into a flat file in
the cache, which is then mapped; several processes may do so at once.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from shared.datasets.names import GAMES
from shared.errors import DatasetError

Frames = npt.NDArray[np.uint8]

DATASET = "frames"
SAMPLED_FRAMES = 64
MOST_SIDE = 4096
"""Pixels of a frame's height or width; models take 64 or 128."""
MOST_CHUNK_BYTES = 1 << 28
"""Of a piece that is unpacked as a whole."""
BLOCK_BYTES = 32 << 20


@contextmanager
def open_frames(path: Path) -> Iterator[Any]:
    """The checked `frames` dataset of a file: uint8 [N, H, W, 3], N, H, W > 0.

    Yields:
        The h5py dataset; its `.file` is the open file.

    Raises:
        DatasetError: The file is missing, broken (here or at a later read), or holds something else; the text
            says what, and the cure.
    """
    if not path.is_file():
        raise DatasetError(f"{path}: no such dataset. {_cure(path)}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read as HDF5 ({error}). It is broken, cut short or no .h5 file: "
            "get or record it again"
        ) from error
    with file:
        try:
            yield _checked(path, file)
        except (OSError, RuntimeError) as error:  # h5py raises either
            raise DatasetError(
                f"{path}: its data cannot be read ({error}). It is damaged: get or record it again"
            ) from error


def _cure(path: Path) -> str:
    name = path.name.removesuffix("_frames.h5")
    if name.upper() in GAMES:
        got = f"Get it: worldloop data download --pattern {path.name} --into {path.parent}"
    else:
        close = get_close_matches(name.upper(), GAMES, n=1)
        meant = f"Did you mean {close[0]}? " if close else ""
        got = f"{meant}Name one of {', '.join(GAMES)} or an existing file"
    return f"{got}, or record a game: worldloop data record --env ALE/Riverraid-v5 --frames 4000 --out {path}"


def dataset_in(file: Any, name: str) -> Any:
    """A dataset of an open file whose data lies in that file, none if there is none of that name.

    Raises:
        DatasetError: It is a link, or its data lies elsewhere: whoever made the file chooses which files of
            ours are read then.
    """
    link = file.get(name, getlink=True)
    if link is None:
        return None
    found = file[name] if isinstance(link, h5py.HardLink) else None
    if isinstance(found, h5py.Dataset) and not (found.external or found.is_virtual):
        return found
    if isinstance(found, h5py.Group | h5py.Datatype):
        return None
    raise DatasetError(f"{file.filename}: '{name}' is a link, or lies in other files. Get or record it again")


def too_large(dataset: Any) -> str | None:
    """Why a dataset cannot be unpacked, none if it can: a piece of it is in memory as a whole."""
    size = math.prod(dataset.chunks or (1,)) * dataset.dtype.itemsize
    if size <= MOST_CHUNK_BYTES:
        return None
    return f"comes in pieces of {size >> 20} MB, too large to be unpacked"


def _checked(path: Path, file: Any) -> Any:
    frames = dataset_in(file, DATASET)
    if frames is None:
        found = ", ".join(sorted(map(str, file))) or "nothing"
        raise DatasetError(
            f"{path}: has no dataset '{DATASET}' (it holds: {found}). Store the video under that name"
        )
    if frames.dtype != np.uint8:
        raise DatasetError(f"{path}: '{DATASET}' is {frames.dtype}. Store pixels as uint8, 0..255")
    if frames.ndim != 4 or frames.shape[3] != 3:
        raise DatasetError(f"{path}: '{DATASET}' has shape {list(frames.shape)}. Expected [N, H, W, 3]")
    if 0 in frames.shape:
        raise DatasetError(f"{path}: '{DATASET}' is empty, shape {list(frames.shape)}. Record it again")
    if max(frames.shape[1:3]) > MOST_SIDE:
        raise DatasetError(
            f"{path}: frames of {frames.shape[1]} x {frames.shape[2]} pixels. At most {MOST_SIDE} a side"
        )
    if (problem := _not_whole(frames)) is not None:
        raise DatasetError(f"{path}: '{DATASET}' {problem}. Get or record it again")
    return frames


def _not_whole(frames: Any) -> str | None:
    """Why the file does not hold the frames it declares, none if it does: a shape alone costs nothing."""
    if frames.chunks is None:
        return None if frames.id.get_storage_size() >= frames.nbytes else "is declared, and not there"
    if (problem := too_large(frames)) is not None:
        return problem
    declared = math.prod(-(-whole // part) for whole, part in zip(frames.shape, frames.chunks, strict=True))
    stored = frames.id.get_num_chunks()
    return f"has {stored} of the {declared} pieces it declares" if stored < declared else None


def fingerprint(frames: Any) -> str:
    """What tells two recordings apart: shape and a spread sample of frames, first and last among them.

    Args:
        frames: uint8 [N, H, W, 3], an h5 dataset or an array; the layout does not matter.
    """
    digest = hashlib.sha256(repr(tuple(frames.shape)).encode())
    for index in sorted({round(i) for i in np.linspace(0, len(frames) - 1, SAMPLED_FRAMES)}):
        digest.update(np.ascontiguousarray(frames[index]).tobytes())
    return digest.hexdigest()


def map_frames(path: Path, dataset: Any, *, cache_dir: Path) -> Frames:
    """The frames as a read-only memory map, uint8 [N, H, W, 3].

    Raises:
        DatasetError: The frames cannot be decoded, or the cache cannot hold them.
    """
    offset = dataset.id.get_offset()
    if offset is not None and dataset.file.userblock_size == 0:
        if offset + dataset.nbytes > path.stat().st_size:
            raise DatasetError(f"{path}: is cut short. Get or record it again")
        return np.memmap(path, np.uint8, "r", offset, dataset.shape)
    flat = cache_dir / "frames" / f"{_cache_key(path, dataset)}.u8"
    if not (flat.is_file() and flat.stat().st_size == dataset.nbytes):
        _flatten(path, dataset, flat)
    return np.memmap(flat, np.uint8, "r", 0, dataset.shape)


def _cache_key(path: Path, dataset: Any) -> str:
    # The fingerprint is a sample; size and time of the file tell apart recordings that agree on it.
    about = path.stat()
    key = f"{fingerprint(dataset)} {about.st_size} {about.st_mtime_ns}"
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _flatten(path: Path, dataset: Any, flat: Path) -> None:
    temporary = flat.with_name(f".{flat.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        flat.parent.mkdir(parents=True, exist_ok=True)
        _check_space(flat.parent, dataset.nbytes)
        with temporary.open("wb") as stream:
            for block in blocks(dataset):
                stream.write(block.tobytes())
        temporary.replace(flat)
    except OSError as error:
        raise DatasetError(
            f"{path}: its frames could not be unpacked into {flat.parent} ({error}). The file is broken, or "
            f"{dataset.nbytes / 1e9:.1f} GB do not fit there (WORLDLOOP_CACHE_DIR names another place)"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_space(folder: Path, wanted: int) -> None:
    if (free := shutil.disk_usage(folder).free) < wanted:
        raise OSError(errno.ENOSPC, f"{free / 1e9:.1f} GB are free")


def blocks(frames: Any) -> Iterator[Frames]:
    """Consecutive blocks of frames, of bounded size, so that a pass over a recording needs little memory."""
    chunk = (getattr(frames, "chunks", None) or (1,))[0]
    per_frame = int(np.prod(frames.shape[1:]))
    step = max(1, BLOCK_BYTES // (per_frame * chunk)) * chunk
    for start in range(0, len(frames), step):
        yield np.asarray(frames[start : start + step])
