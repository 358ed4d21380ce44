"""What lies under an output root: each bundle's run, how far it came, and what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue

from services.bundles.core import named
from services.bundles.run import GOING_ON, Run, read_run, state_of
from services.bundles.tree import scan, usage
from shared.bundle import checkpoint_directories
from shared.bus.protocol import Recorded
from shared.config import Config
from shared.errors import BundleError
from shared.events import STAGES, ReportWritten, Stage, Status


class BundleRow(Config):
    """A bundle in the list."""

    run_id: str
    path: str
    status: Status | None
    """None where its events cannot be read; `problem` says why."""
    problem: str | None = None
    degraded: bool = False
    running: bool = False
    """It is in the hands of a stack: running, queued or paused."""
    complete: bool = False
    """The inference gate passed, or the stages asked for are done, and every report named is there."""
    size_bytes: int = 0
    stages: dict[Stage, dict[str, JsonValue]] = Field(default_factory=dict)
    """Stage -> updates accepted, target, completed."""
    newest_checkpoint: str | None = None
    """Path in the bundle: of the last stage that has one, the one with the most updates."""
    updated: float | None = None
    """Unix time of the newest event."""


def row(root: Path, known: list[Recorded]) -> BundleRow:
    """Look at a bundle; checkpoints are not read.

    Args:
        root: The bundle.
        known: Its run's events as the server has them, which may be ahead; empty if it has none.
    """
    found: dict[str, Any] = {"run_id": root.name, "path": str(root), "status": None}
    try:
        found["size_bytes"] = usage(scan(root))
        run = read_run(root)
    except BundleError as error:
        return BundleRow(**found, problem=str(error))
    state = run.state
    if known and state.spec is not None and Path(state.spec.bundle).resolve() == root.resolve():
        state = state_of(known)
    ending = state.finished
    return BundleRow(
        **found
        | {
            "run_id": run.run_id,
            "status": state.status,
            "degraded": state.degraded,
            "running": state.status in GOING_ON,
            "complete": ending is not None and state.status in ("passed", "stage_completed") and _whole(run),
            "stages": {
                name: {
                    "step": stage.accepted.step if stage.accepted is not None else 0,
                    "target": stage.target,
                    "completed": stage.completed,
                }
                for name, stage in state.stages.items()
            },
            "newest_checkpoint": _newest(run),
            "updated": run.records[-1].time.timestamp(),
        }
    )


def _whole(run: Run) -> bool:
    """Whether every report that was written is there."""
    written = [each.message for each in run.records if isinstance(each.message, ReportWritten)]
    return all((run.bundle.root / path).is_file() for path in named.files_of(written))


def _newest(run: Run) -> str | None:
    for stage in reversed(STAGES):
        if found := list(checkpoint_directories(run.bundle.checkpoints(stage))):
            return found[-1][1].relative_to(run.bundle.root).as_posix()
    return None
