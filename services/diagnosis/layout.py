"""Where the files of a run lie: bundles, TinyWorlds' results, wandb directories."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.bundle import Bundle
from shared.events import STAGES, Stage

EVENTS = Bundle(Path(), "").events
HISTORIES = ("*history*.csv", "*history*.json")
HISTORY_SUFFIXES = (".csv", ".json")
PARTS = ("checkpoints", "visualizations")
DIGITS = re.compile(r"\d+")
STAMP = 14
"""Digits of YYYYMMDDHHMMSS, however they are separated."""


@dataclass(frozen=True, slots=True)
class Results:
    """A run directory `<run>/<stage>/{checkpoints,visualizations}`."""

    path: Path
    stages: tuple[Stage, ...]
    others: tuple[Path, ...] = ()
    """Other runs beside it, left aside."""


def find_results(path: Path) -> Results | None:
    """The run directory that a path is, holds (the newest, by name) or belongs to as a stage's directory."""
    if path.name in STAGES and _is_stage(path):
        return Results(path.parent, tuple(stage for stage in STAGES if stage == path.name))
    if stages := _stages(path):
        return Results(path, stages)
    for parent in (path, path / "results"):
        runs = [child for child in _directories(parent) if _stages(child)]
        if runs:
            newest = max(runs, key=lambda run: run.name)
            return Results(newest, _stages(newest), tuple(run for run in runs if run != newest))
    return None


def home(results: Results) -> Path:
    """Where logs and wandb directories of a run directory are looked for."""
    return results.path.parent.parent if results.path.parent.name == "results" else results.path


def bundles(root: Path) -> list[Path]:
    """The bundles that a directory holds, oldest first by name."""
    return sorted(child for child in _directories(root) if (child / EVENTS).is_file())


def attempts(root: Path, stage: Stage) -> list[Path]:
    """Histories of a bundle's attempts at a stage, in their order."""
    return sorted(Bundle(root, "").history(stage, 1).parent.glob("attempt_*.csv"))


def exports(root: Path) -> list[Path]:
    """Exported histories of a directory and its `Logs/`, oldest change first; CSV rather than JSON."""
    found = [path for place in (root, root / "Logs") for pattern in HISTORIES for path in place.glob(pattern)]
    chosen = [path for path in found if path.suffix == ".csv" or path.with_suffix(".csv") not in found]
    return sorted(chosen, key=lambda path: (path.stat().st_mtime, path.name))


def as_new_as(path: Path, other: Path) -> bool:
    """Whether a file was changed no earlier than another."""
    return path.stat().st_mtime >= other.stat().st_mtime


def wandb_files(root: Path) -> list[Path]:
    """The `.wandb` files of a wandb run directory, a `wandb/` directory or one that has it, oldest first."""
    for pattern in ("*.wandb", "*run-*/*.wandb", "wandb/*run-*/*.wandb"):
        if found := list(root.glob(pattern)):  # `latest-run`, a link to one of them, is none of these
            return sorted(found, key=lambda path: (stamp(path.parent.name), path.name))
    return []


def of_run(files: Sequence[Path], results: Results) -> list[Path]:
    """Those wandb files that were begun while a run directory was the newest one of its place."""
    began = stamp(results.path.name)
    later = [stamp(other.name) for other in results.others if stamp(other.name) > began]
    ended = min(later, default="9" * STAMP)
    return [path for path in files if began <= stamp(path.parent.name) < ended]


def stamp(name: str) -> str:
    """The time in a run's name, as digits YYYYMMDDHHMMSS; empty if there is none."""
    digits = "".join(DIGITS.findall(name))[:STAMP]
    return digits if len(digits) == STAMP else ""


def _stages(path: Path) -> tuple[Stage, ...]:
    return tuple(stage for stage in STAGES if _is_stage(path / stage))


def _is_stage(path: Path) -> bool:
    return any((path / part).is_dir() for part in PARTS)


def _directories(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (child for child in path.iterdir() if child.is_dir())
