"""What the trainer knows about the checkpoints on the disk, without reading again what has not changed."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import structlog

from shared.bundle import Bundle, checkpoint_directories, recover, step_of
from shared.errors import BundleError
from shared.events import CheckpointInfo, Stage
from shared.sheets import sheet_step

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

Signature = tuple[tuple[str, int, int], ...]
"""Name, size and time of each file."""


class Inventory:
    """Checkpoints and whether they are valid (SPEC 8's sense: `shared.worldmodel.checkpoints`)."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Signature, CheckpointInfo]] = {}
        self._quiet = asyncio.Lock()
        """Held while the lineage is read or thinned out: a new chunk looks while the one before tidies up."""

    async def look(self, bundle: Bundle, stage: Stage) -> list[CheckpointInfo]:
        """The stage's lineage, oldest first; what is new or changed is read and checked."""
        async with self._quiet:
            return [
                await self.inspect(bundle, directory)
                for _, directory in checkpoint_directories(bundle.checkpoints(stage))
            ]

    async def inspect(self, bundle: Bundle, directory: Path) -> CheckpointInfo:
        """One checkpoint."""
        signature, known = _signature(directory), self._known.get(directory)
        if known is not None and known[0] == signature:
            return known[1]
        info = await asyncio.to_thread(_read, bundle, directory)
        self._known[directory] = signature, info
        return info

    def written(self, bundle: Bundle, path: str) -> None:
        """A checkpoint that the training process has just written whole, with finite weights."""
        directory = bundle.resolve(path)
        signature, step = _signature(directory), step_of(directory)
        assert step is not None
        info = CheckpointInfo(
            path=path, step=step, valid=True, size_bytes=sum(size for _, size, _ in signature)
        )
        self._known[directory] = signature, info

    def forget(self) -> None:
        """Have every checkpoint read and checked again: a disk can break one and leave size and time."""
        self._known.clear()

    async def delete(self, bundle: Bundle, paths: list[str]) -> None:
        """Delete checkpoints; one that the disk will not let go is logged and left."""
        async with self._quiet:
            for path in paths:
                try:
                    directory = bundle.resolve(path)
                    self._known.pop(directory, None)
                    await asyncio.to_thread(shutil.rmtree, directory)
                except (OSError, BundleError) as error:
                    log.warning("a checkpoint could not be deleted", path=path, problem=str(error))


def supersede(bundle: Bundle, stage: Stage, step: int, attempt: int) -> None:
    """Move checkpoints and sheets beyond `step` out of the stage's lineage, before `attempt` starts there.

    What a killed writer left goes first: nobody writes now.
    """
    recover(bundle.checkpoints(stage))
    checkpoints = [each for at, each in checkpoint_directories(bundle.checkpoints(stage)) if at > step]
    pictures = bundle.visualizations(stage)
    sheets = (
        [each for each in pictures.glob("*.png") if (sheet_step(each) or 0) > step]
        if pictures.is_dir()
        else []
    )
    aside = bundle.superseded(stage, attempt)
    for folder, moved in ((aside / "checkpoints", checkpoints), (aside / "visualizations", sheets)):
        for path in moved:
            folder.mkdir(parents=True, exist_ok=True)
            path.rename(_free(folder / path.name))


def _free(path: Path) -> Path:
    """The path, or one beside it that is not taken."""
    number, found = 1, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found


def _signature(directory: Path) -> Signature:
    if not directory.is_dir():
        return ()
    files = ((path.name, path.stat()) for path in sorted(directory.iterdir()) if path.is_file())
    return tuple((name, about.st_size, about.st_mtime_ns) for name, about in files)


def _read(bundle: Bundle, directory: Path) -> CheckpointInfo:
    from shared.worldmodel.checkpoints import inspect_checkpoint

    try:
        return inspect_checkpoint(directory, bundle=bundle)
    except BundleError as error:  # a link leads out of the bundle: nothing there is ours to read or delete
        path = directory.relative_to(bundle.root).as_posix()
        return CheckpointInfo(path=path, step=step_of(directory) or 0, valid=False, problem=str(error))
