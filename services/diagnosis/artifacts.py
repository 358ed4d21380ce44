"""Looking at what a stage left on the disk: checkpoints and picture sheets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from services.diagnosis.core.model import Checkpoint
from services.diagnosis.kept import Kept, state_of
from services.monitor.core import visual
from services.monitor.core.checkpoints import FILES, empty_problem
from shared.bundle import checkpoint_directories
from shared.errors import BundleError, CheckpointError
from shared.events import Stage, VisualNumbers
from shared.sheets import read_sheet, sheet_step

READ = 5
"""So many of a stage's newest checkpoints are read through, and further back until one is valid."""
_CONTENTS: Kept[tuple[str | None, dict[str, Any]]] = Kept(64)
_NUMBERS: Kept[VisualNumbers] = Kept(16)
UNREAD = "torch is not installed: the contents of checkpoints were not validated, only their files and sizes"


@dataclass(slots=True)
class Inventory:
    """A stage's checkpoints."""

    checkpoints: list[Checkpoint] = field(default_factory=list)
    """Oldest first."""
    config: dict[str, Any] = field(default_factory=dict)
    """Configuration that the newest valid one carries, if it was read."""
    note: str | None = None


def take_inventory(folder: Path) -> Inventory:
    """Look at every checkpoint of a folder; read the newest ones, if torch is there."""
    found = Inventory()
    readable = find_spec("torch") is not None
    directories = list(checkpoint_directories(folder))
    for index, (step, directory) in enumerate(reversed(directories)):
        valid = any(each.valid for each in found.checkpoints)
        read = readable and (index < READ or not valid)
        checkpoint, config = _look(directory, step, read=read)
        if not directory.is_dir():
            continue  # the run goes on, and its retention took it meanwhile
        found.checkpoints.insert(0, checkpoint)
        if not valid and config:
            found.config = config
    if directories and not readable:
        found.note = UNREAD
    elif (unread := sum(not each.contents for each in found.checkpoints)) and readable:
        whole = len(found.checkpoints) - unread
        found.note = f"{whole} checkpoints were read through; of the others only sizes"
    return found


def _look(directory: Path, step: int, *, read: bool) -> tuple[Checkpoint, dict[str, Any]]:
    problem: str | None = None
    sizes: dict[str, int] = {}
    modified = 0.0
    try:
        for path in directory.iterdir():
            if path.is_file():
                about = path.stat()
                sizes[path.name], modified = about.st_size, max(modified, about.st_mtime)
    except OSError as error:
        problem = f"it cannot be looked at: {error.strerror}"
    empty = empty_problem(sizes)
    missing = [name for name in FILES if name not in sizes]
    problem = problem or empty or (f"{', '.join(missing)} is missing" if missing else None)
    config: dict[str, Any] = {}
    if read and problem is None:
        state = tuple((name, state_of(directory / name)) for name in sorted(sizes))
        problem, config = _CONTENTS.of(directory, state, lambda: _contents(directory))
    checkpoint = Checkpoint(
        path=str(directory),
        step=step,
        valid=problem is None,
        contents=read,
        empty=empty is not None,
        problem=problem,
        size_bytes=sum(sizes.values()),
        modified=modified,
    )
    return checkpoint, config


def _contents(directory: Path) -> tuple[str | None, dict[str, Any]]:
    """What is wrong with a checkpoint's contents, and the configuration it carries."""
    from shared.worldmodel.checkpoints import load_checkpoint

    try:
        return None, load_checkpoint(directory).config
    except (CheckpointError, OSError) as error:
        return str(error), {}


@dataclass(slots=True)
class Sheets:
    """A stage's picture sheets, the first and the last of those that can be read measured."""

    paths: list[Path] = field(default_factory=list)
    """Readable or not, oldest first."""
    early: VisualNumbers | None = None
    late: VisualNumbers | None = None
    problem: str | None = None


def look_at_sheets(folder: Path, stage: Stage) -> Sheets:
    """Measure the earliest and the latest sheet of a `visualizations/` folder."""
    if not folder.is_dir():
        return Sheets(problem=f"{folder}: there are no pictures")
    steps = {path: step for path in folder.glob("*.png") if (step := sheet_step(path)) is not None}
    paths = sorted(steps, key=lambda path: steps[path])
    problems: list[str] = []
    late = _first(list(reversed(paths)), steps, stage, problems)
    early = _first(paths, steps, stage, problems) if late is not None else None
    kept = [path for path in paths if late and early and steps[early[0]] <= steps[path] <= steps[late[0]]]
    found = Sheets(kept or paths, early[1] if early else None, late[1] if late else None)
    if not paths:
        found.problem = f"{folder}: there are no pictures"
    elif problems:
        found.problem = problems[0]
    return found


def _first(
    paths: Sequence[Path], steps: dict[Path, int], stage: Stage, problems: list[str]
) -> tuple[Path, VisualNumbers] | None:
    """The first sheet that can be read."""
    for path in paths:
        try:
            return path, _NUMBERS.of(path, state_of(path), partial(_measure, path, stage, steps[path]))
        except BundleError as error:
            problems.append(str(error))
    return None


def _measure(path: Path, stage: Stage, step: int) -> VisualNumbers:
    pictures = read_sheet(path)
    return visual.numbers(
        stage, pictures.originals, pictures.generated, sheet=path.name, step=step, fresh=True
    )
