"""Names of datasets: which file a name stands for, which game a file shows, at what stride it is read."""

from __future__ import annotations

import re
from pathlib import Path

from shared.home import expanded

GAMES = ("ZELDA", "SONIC", "POLE_POSITION", "PICODOOM", "PONG")
"""Names that stand for `data/<name>_frames.h5`."""
FULL_RATE = 60
"""Frames per second that TinyWorlds takes every file to have."""
DEFAULT_FPS, PICODOOM_FPS = 15, 30
LARGE_GAMES = ("zelda", "sonic", "picodoom")
"""Games that TinyWorlds keeps at 128x128; all others at 64x64."""


def dataset_path(name: str, data_dir: Path) -> Path:
    """The absolute path of a dataset.

    Args:
        name: One of `GAMES`, in any case, or a file (relative to the current directory).
        data_dir: Where the named datasets lie.
    """
    if name.upper() in GAMES:
        return (data_dir / f"{name.lower()}_frames.h5").absolute()
    return expanded(name).absolute()


def found_in(data_dir: Path | None, path: Path) -> Path:
    """Where a process finds a recording: by file name in its own `data_dir` (`Settings`), if it has one.

    Args:
        data_dir: None where recordings lie under the same path as where the run was started.
        path: The recording, as the run names it.
    """
    return path if data_dir is None else data_dir / path.name


def game_of(path: Path) -> str:
    """The game a frames file shows, from its name: lower-case letters, digits and underscores."""
    return plain(path.stem.lower().removesuffix("_frames")) or "game"


def plain(name: str) -> str:
    """A name as lower-case letters, digits and underscores; empty if it has none of them."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def size_of(game: str) -> int:
    """Height and width that frames of a game have in TinyWorlds, pixels."""
    return 128 if game in LARGE_GAMES else 64


def stride_of(fps: int | None, game: str) -> int:
    """Distance in the file between two frames of a sample.

    Args:
        fps: Frames per second of a sample, as configured; none is 15. A recording that was subsampled as it
            was made (`worldloop data record`) is read frame by frame with 60.
        game: As `game_of` says; picodoom is always read at 30.
    """
    if game == "picodoom":
        fps = PICODOOM_FPS
    return max(1, FULL_RATE // (fps or DEFAULT_FPS))
