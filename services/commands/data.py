"""`worldloop data`: thin commands over `shared.datasets`.

What they did is said on stdout, with `--json` as one object; progress and warnings go to stderr.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.commands.bar import BYTES, COUNT, SHARE, bar
from services.commands.terminal.output import say, say_json, warn
from shared.datasets.download import download
from shared.datasets.hub import DATASETS, MODELS, Repository
from shared.datasets.ingest import ingest
from shared.datasets.inspection import inspect
from shared.datasets.names import game_of, plain, size_of
from shared.datasets.recording import record, recording_path
from shared.errors import DatasetError

DATA = Path("data")


def download_datasets(pattern: str, into: Path, *, overwrite: bool, as_json: bool) -> None:
    """Get frames files.

    Raises:
        DatasetError: They cannot be had; the text says what to do.
    """
    _download(DATASETS, pattern, into, overwrite=overwrite, as_json=as_json)


def download_models(pattern: str, into: Path, *, overwrite: bool, as_json: bool) -> None:
    """Get trained checkpoints.

    Raises:
        DatasetError: They cannot be had; the text says what to do.
    """
    _download(MODELS, pattern, into, overwrite=overwrite, as_json=as_json)


def _download(repository: Repository, pattern: str, into: Path, *, overwrite: bool, as_json: bool) -> None:
    with bar(f"downloading {pattern}", BYTES) as progress:
        fetched = download(repository, pattern, into, overwrite=overwrite, progress=progress)
    lines = [
        f"{file.path}: {file.size_bytes / 1e6:,.1f} MB, "
        + (f"{file.transferred_bytes / 1e6:,.1f} MB came now" if file.transferred_bytes else "was there")
        for file in fetched
    ]
    _say(lines, {"repository": repository.name, "files": [asdict(file) for file in fetched]}, as_json)


def ingest_video(
    video: Path,
    game: str,
    out: Path | None,
    *,
    size: int | None,
    fps: float | None,
    start: float,
    end: float | None,
    frames: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make a frames file of a video.

    Raises:
        DatasetError: It cannot be used; the text says what to do.
    """
    name = plain(game)
    if not name:
        raise DatasetError(f"--game {game!r}: names the file, so it needs letters (a..z) or digits")
    with bar(f"reading {video.name}", SHARE) as progress:
        done = ingest(
            video,
            out or DATA / f"{name}_frames.h5",
            size=size or size_of(name),
            fps=fps,
            start=start,
            end=end,
            frames=frames,
            overwrite=overwrite,
            progress=progress,
        )
    for damage in done.damage:
        warn(f"worldloop: {video}: {damage}")
    line = (
        f"{done.path}: {done.frames} frames of {done.size}x{done.size} at {done.fps:g} per second, from "
        f"{done.source_size}, {done.fingerprint}"
    )
    _say([line], asdict(done), as_json)


def record_game(
    env: str,
    out: Path | None,
    *,
    frames: int,
    size: int | None,
    seed: int,
    frame_skip: int,
    keep_every: int,
    policy: str,
    new_action: float,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Play an environment and record it.

    Raises:
        DatasetError: It cannot be recorded; the text says what to do.
    """
    path = out or recording_path(env, DATA)
    with bar(f"recording {env}", COUNT) as progress:
        done = record(
            env,
            path,
            frames=frames,
            size=size or size_of(game_of(path)),
            seed=seed,
            frame_skip=frame_skip,
            keep_every=keep_every,
            policy=policy,
            new_action=new_action,
            overwrite=overwrite,
            progress=progress,
        )
    line = (
        f"{done.path}: {done.frames} frames of {done.size}x{done.size}, {done.episodes} episodes, "
        f"{done.actions} actions, {done.fingerprint}"
    )
    _say([line], asdict(done), as_json)


def inspect_file(path: Path, *, sheet: Path | None, draw: bool, as_json: bool) -> None:
    """Say what is in a recording, and draw its contact sheet.

    Raises:
        DatasetError: The file is missing, broken or of the wrong kind, or the sheet cannot be written.
    """
    picture = (sheet or path.parent / f"{path.stem}_sheet.png") if draw else None
    with bar(f"reading {path.name}", COUNT) as progress:
        found = inspect(path, sheet=picture, progress=progress)
    _say([f"{key:18} {_shown(value)}" for key, value in found.items()], found, as_json)


def _say(lines: list[str], found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        say_json(json.dumps(found, indent=2, default=str))
    else:
        say("\n".join(lines))


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{name}: ({_shown(inner)})" if isinstance(inner, dict) else f"{name}: {_shown(inner)}"
            for name, inner in value.items()
        )
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
