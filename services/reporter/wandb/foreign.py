"""The histories of a run that worldloop did not start: of files that follow each other, stage by stage."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.reporter.config import WandbSource
from services.reporter.core.wandb.history import Source, StageHistory
from services.reporter.core.wandb.table import Table, joined
from services.reporter.wandb import api, runs
from services.reporter.wandb.logged import Logged, read
from shared.errors import BundleError, WorldloopError
from shared.events import Stage


def histories(
    files: Mapping[Stage, Sequence[Path]], source: WandbSource, limits: api.Limits = api.LIMITS
) -> list[StageHistory]:
    """The history of each stage: each file replaces what earlier ones have from its first step on.

    Args:
        files: Stage -> `.wandb` files or exports, in the order in which they were written.
        source: W&B's API first, only that, or only these files.
        limits: When W&B is given up.

    Raises:
        WorldloopError: Only the API may be used and it has no history, or no file of a stage can be read.
    """
    with tempfile.TemporaryDirectory(prefix="worldloop-wandb-") as scratch:
        return [_history(stage, each, source, Path(scratch), limits) for stage, each in files.items()]


def _history(
    stage: Stage, files: Sequence[Path], source: WandbSource, scratch: Path, limits: api.Limits
) -> StageHistory:
    paths: dict[str, str] = {}
    why = "only local files were asked for" if source == "local_only" else _addresses(files, paths)
    if why is None:
        api.fetch(paths, scratch, limits)
        answers = {run: scratch / f"{run}.jsonl" for run in paths}
        problems = [f"W&B run {run}: {said}" for run in paths if (said := api.problem_of(answers[run]))]
        if not problems:
            return _stitched(stage, list(answers.values()), "api", "W&B's API has every run of the stage")
        why = problems[0]
    if source == "api_only":
        raise WorldloopError(
            f"--source api_only, but W&B's API has no history of {stage}: {why}. "
            "Or take the local files: --source api_first"
        )
    return _stitched(stage, files, "local", f"W&B's API was not used: {why}")


def _addresses(files: Sequence[Path], paths: dict[str, str]) -> str | None:
    """Find out where W&B has each run; says why it need not be asked."""
    for file in files:
        if file.suffix != ".wandb":
            return f"{file.name} is an export and does not say which run it is of"
        if runs.unsent(file.parent):
            return runs.UNSENT
        head = runs.head_of(file)
        if head.run_id is None or not runs.ID.fullmatch(head.run_id):
            return f"{file.name} does not say which run it is of"
        paths[head.run_id] = runs.path_of(head.run_id, file)
    return None


def _stitched(stage: Stage, files: Sequence[Path], source: Source, why: str) -> StageHistory:
    """Put a stage together, newest file first: where it begins, the older ones end."""
    end = math.inf
    counted, superseded, logs = list[Table](), list[Table](), list[Logged]()
    notes, summary = list[str](), dict[str, float]()
    for path in reversed(files):
        before = end
        try:
            log = read(path, lambda step, before=before: step < before)  # type: ignore[misc]
        except BundleError as error:
            notes.append(f"{error}.")
            continue
        logs.insert(0, log)
        counted.insert(0, log.table.between(-math.inf, before))
        if len(void := log.table.between(before, math.inf)):
            superseded.insert(0, void)
        if len(log.table):
            end = min(end, float(log.table.steps[0]))
        summary = {**log.last, **summary}
        notes += [f"{path}: {log.damage}."] if log.damage else []
    if not logs:
        raise BundleError(notes[0].rstrip("."))
    newest = logs[-1]
    return StageHistory(
        stage=stage,
        source=source if any(len(log.table) for log in logs) else "none",
        why=why,
        counted=joined(counted),
        superseded=superseded,
        files=[str(log.path) for log in logs] if source == "local" else [],
        runs=[log.run for log in logs if log.run is not None],
        config=newest.config,
        config_of=f"W&B run {newest.run}" if newest.run else "",
        summary=summary,
        notes=notes,
    )
