"""`worldloop history export`: the rows of a run, of any trainer, as CSV and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.commands import places
from services.commands.places import EVENTS_FILE
from services.commands.terminal.output import say, say_json, warn
from services.diagnosis import histories, layout
from shared.bundle import Bundle
from shared.errors import BundleError, UsageError
from shared.events import RUN_ID, STAGES, Stage
from shared.history_export import FORMATS, Format, csv_rows, export_path, number, write_exports
from shared.home import expanded
from shared.wandb_file import WandbFile
from shared.wandb_rows import STEP, Row


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of a stage's history."""

    path: Path
    run_id: str
    wandb: WandbFile | None = None
    """The file, if it is one of W&B's."""

    def rows(self) -> Iterator[Row]:
        """Its rows, as logged."""
        return self.wandb.rows() if self.wandb is not None else csv_rows(self.path)


def export(
    argument: str | None,
    *,
    stage: Stage | None,
    form: Format | None,
    out: Path | None,
    root: Path,
    as_json: bool = False,
) -> int:
    """Export histories and print where they went.

    Args:
        argument: Run id, bundle, run directory, wandb directory or history; none: the newest run.
        stage: Only this one; or the stage a file is of.
        form: Only this format.
        out: Directory to write to; none: `Logs/` of the bundle, else of the working directory.
        root: Output root, for run ids.
        as_json: One JSON object on stdout.

    Returns:
        0.

    Raises:
        WorldloopError: There is no such history, or its stage is not known; the text says so.
    """
    path, folder = _place(argument, root)
    written: list[dict[str, str | int]] = []
    found = {each: pieces for each, pieces in _find(path, stage).items() if pieces}
    for name, pieces in found.items():
        target = out or folder
        run_id = pieces[-1].run_id
        paths = {
            each: export_path(target, name, run_id, "latest", each) for each in ([form] if form else FORMATS)
        }
        try:
            count = write_exports(stitched(pieces), paths)
        except OSError as error:
            raise UsageError(f"{error.filename or target}: {error.strerror}") from error
        for each in paths.values():
            written.append({"stage": name, "file": str(each), "rows": count})
            if not as_json:
                say(f"{each}  {count} rows")
        for piece in pieces:
            if piece.wandb is not None and piece.wandb.damage is not None:
                warn(f"{piece.path}: {piece.wandb.damage}; the rows before it are exported")
    if as_json:
        say_json(json.dumps({"exports": written}, indent=2))
    return 0


def stitched(pieces: Sequence[Piece]) -> Callable[[], Iterator[Row]]:
    """Reader of one history of several files: each replaces what earlier ones have from its first step on.

    Args:
        pieces: In the order in which they were written.
    """
    ends: list[float] = []
    before = math.inf
    for piece in reversed(pieces):
        ends.insert(0, before)
        before = min([before, *(step for row in piece.rows() if (step := number(row, STEP)) is not None)])

    def rows() -> Iterator[Row]:
        for piece, end in zip(pieces, ends, strict=True):
            for row in piece.rows():
                step = number(row, STEP)
                if step is not None and step < end:
                    yield row

    return rows


def _place(argument: str | None, root: Path) -> tuple[Path, Path]:
    """What an argument stands for, and where its exports go."""
    if argument is None or RUN_ID.fullmatch(argument):
        path = places.bundle_found(argument, root)
    else:
        path = expanded(argument)
        if not path.exists():
            raise BundleError(f"{path}: there is no such file or directory, and it is no run id")
    return path, Bundle(path if (path / EVENTS_FILE).is_file() else Path(), "").logs


def _find(path: Path, only: Stage | None) -> dict[Stage, list[Piece]]:
    """The files of each stage's history, in the order in which they were written.

    Raises:
        BundleError: There is none; says what was looked for.
    """
    wanted = [stage for stage in STAGES if only in (None, stage)]
    if (path / EVENTS_FILE).is_file():
        run_id = places.find_run(str(path), path.parent).run_id
        found = {stage: [Piece(each, run_id) for each in layout.attempts(path, stage)] for stage in wanted}
    else:
        found = {stage: [] for stage in wanted}
        files = wandb_or_csv(path)
        problems: list[str] = []
        for each in files:
            stage = only if only and len(files) == 1 else stage_of(each, problems)
            if stage in found:
                found[stage].append(_piece(each))
        if problems and not any(found.values()):
            raise BundleError("; ".join(problems))
        for problem in problems:
            warn(f"left aside: {problem}")
    if not any(found.values()):
        raise BundleError(
            f"{path}: no history of {only or 'any stage'}: neither a bundle's Logs/history/ nor *.wandb of it"
        )
    return found


def stage_of(path: Path, problems: list[str]) -> Stage | None:
    """The stage a file is of; none, and why, if it cannot be told."""
    try:
        stage = histories.read(path).stage
    except BundleError as error:
        problems.append(str(error))
        return None
    if stage is None:
        problems.append(f"{path}: of which stage? Name this file alone, with --stage")
    return stage


def wandb_or_csv(path: Path) -> list[Path]:
    """A file itself; of a directory the W&B files of its newest run, oldest first."""
    if path.is_file():
        if path.suffix not in (".wandb", ".csv"):
            raise UsageError(f"{path}: .wandb and .csv files can be exported")
        return [path]
    results = layout.find_results(path)
    if results is not None:
        return layout.of_run(layout.wandb_files(layout.home(results)), results)
    return layout.wandb_files(path)


def _piece(path: Path) -> Piece:
    """A file, with the id of its run: W&B's, or the file's own name."""
    if path.suffix != ".wandb":
        return Piece(path, path.stem)
    file = WandbFile(path)
    for _ in file.rows(()):
        if file.run_id is not None:  # it stands near the beginning
            break
    return Piece(path, Path(file.run_id or "").name or path.stem, file)  # no directories: it names files
