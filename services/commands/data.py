"""`worldloop data`: thin commands over `shared.datasets`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shared.datasets.inspection import inspect
from shared.datasets.recording import record, recording_path

DATA = Path("data")


def record_game(
    env: str,
    out: Path | None,
    *,
    frames: int,
    size: int,
    seed: int,
    frame_skip: int,
    keep_every: int,
    new_action: float,
    overwrite: bool,
) -> int:
    """Play an environment at random and record it.

    Raises:
        DatasetError: It cannot be recorded; the text says what to do.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"recording {env}", total=frames)
        done = record(
            env,
            out or recording_path(env, DATA),
            frames=frames,
            size=size,
            seed=seed,
            frame_skip=frame_skip,
            keep_every=keep_every,
            new_action=new_action,
            overwrite=overwrite,
            progress=lambda kept, _: bar.update(task, completed=kept),
        )
    sys.stdout.write(
        f"{done.path}: {done.frames} frames of {done.size}x{done.size}, {done.episodes} episodes, "
        f"{done.actions} actions, {done.fingerprint}\n"
    )
    return 0


def inspect_file(path: Path, *, as_json: bool) -> int:
    """Print what is in a recording.

    Raises:
        DatasetError: The file is missing, broken or of the wrong kind.
    """
    found = inspect(path)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return 0
    for key, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name}: {_number(inner)}" for name, inner in value.items())
        sys.stdout.write(f"{key:18} {_number(value)}\n")
    return 0


def _number(value: object) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
