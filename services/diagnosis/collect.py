"""From a path to everything that can be found on the run it names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from services.diagnosis import histories, layout
from services.diagnosis.artifacts import Inventory, Sheets, look_at_sheets, take_inventory
from services.diagnosis.core.evidence import RunEvidence, StageEvidence
from services.diagnosis.core.measures import stitch
from services.diagnosis.core.model import Kind
from services.diagnosis.histories import History
from services.diagnosis.recorded import RecordedRun, read_events
from services.gatekeeper.config import Policy
from shared.bundle import check_inside
from shared.errors import BundleError
from shared.events import STAGES, Stage


@dataclass(frozen=True, slots=True)
class Thresholds:
    """A policy and where it came from."""

    policy: Policy
    origin: str
    own: bool = False
    """It was asked for: what a run's own policy and gates say does not count."""


def collect(path: Path, thresholds: Thresholds, *, stage: Stage | None = None) -> RunEvidence:
    """Find and read what there is.

    Args:
        path: A bundle, a results directory, a wandb directory, or a history file.
        thresholds: What to judge by where a run does not bring its own policy.
        stage: Only this stage; of a history file, the stage it is of.

    Raises:
        BundleError: There is nothing there that can be diagnosed; says what was looked for.
    """
    if path.is_file():
        kind: Kind = "wandb" if path.suffix == ".wandb" else "history"
        return _history_files([path], path, thresholds, stage, kind=kind)
    if not path.is_dir():
        raise BundleError(f"{path}: there is no such file or directory")
    if (path / layout.EVENTS).is_file():
        return _bundle(path, thresholds, stage)
    results = layout.find_results(path)
    if results is not None:
        return _results(path, results, thresholds, stage)
    if files := layout.wandb_files(path):
        return _history_files(files, path, thresholds, stage, kind="wandb")
    if files := layout.exports(path):
        return _history_files(files, path, thresholds, stage, kind="history")
    if runs := layout.bundles(path):
        raise BundleError(f"{path}: it holds runs; name one of them, the newest is {runs[-1]}")
    raise BundleError(
        f"{path}: nothing to diagnose: neither {layout.EVENTS} of a bundle, nor a stage's checkpoints/ or "
        "visualizations/ (here, one level below, or in results/*), nor *.wandb, nor *history*.csv|json"
    )


# --- bundles ----------------------------------------------------------------------------------------------


def _bundle(root: Path, thresholds: Thresholds, only: Stage | None) -> RunEvidence:
    check_inside(root)
    notes = []
    try:
        run = read_events(root / layout.EVENTS)
    except BundleError as error:
        run = RecordedRun()
        notes.append(f"{error}; the run is judged without its recorded gates")
    used = thresholds
    if run.spec is not None and not thresholds.own:
        try:
            used = Thresholds(Policy.recorded(run.spec.policy.get("gatekeeper")), "the run's own policy")
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            notes.append(
                f"the run's own policy cannot be used ({key}: {first['msg']}): {used.origin} instead"
            )
    if thresholds.own and run.gates:
        notes.append(f"judged by {used.origin}: recorded gates are left aside, histories are judged instead")
    recorded = run.spec is not None and not thresholds.own
    results = layout.find_results(root)
    if run.spec is not None and (root / "results" / run.spec.run_name).is_dir():
        results = layout.Results(root / "results" / run.spec.run_name, STAGES)
    begun = [stage for stage in STAGES if stage in run.parameters or _exists(root, results, stage)]
    wanted = [stage for stage in begun if only in (None, stage)]
    if not wanted:
        why = "; ".join([f"no chunk of {only or 'any stage'} was begun", *notes])
        raise BundleError(f"{root}: nothing to diagnose yet: {why}")
    stages = []
    for stage in wanted:
        gates = run.gates.get(stage, []) if recorded else None
        problems: list[str] = []
        read = _readable(layout.attempts(root, stage), problems)
        found = _stage(stage, root, results, read, problems, notes)
        config = {**found.config, **run.parameters.get(stage, {})}
        stages.append(replace(found, gates=gates, config=config))
    inference_gates = run.gates.get("inference", [])
    return RunEvidence(
        path=str(root),
        root=str(root),
        kind="bundle",
        stages=stages,
        policy=used.policy,
        policy_origin=used.origin,
        run_id=run.run_id,
        status=run.status,
        reason=run.reason,
        inference=run.inference if only is None else None,
        inference_gate=inference_gates[-1] if inference_gates and only is None else None,
        max_mse=run.max_mse,
        notes=notes,
    )


def _exists(root: Path, results: layout.Results | None, stage: Stage) -> bool:
    below = results is not None and any((results.path / stage / part).is_dir() for part in layout.PARTS)
    return below or bool(layout.attempts(root, stage))


# --- results of any trainer -------------------------------------------------------------------------------


def _results(path: Path, results: layout.Results, thresholds: Thresholds, only: Stage | None) -> RunEvidence:
    notes = []
    if results.others:
        notes.append(
            f"{results.path} is the newest of {len(results.others) + 1} runs; name another to see it"
        )
    wanted = [stage for stage in results.stages if only in (None, stage)]
    if not wanted:
        raise BundleError(f"{path}: there is no {only}; there is {', '.join(results.stages)}")
    root = layout.home(results)
    problems: dict[Stage, list[str]] = {stage: [] for stage in wanted}
    read = {stage: _readable(layout.attempts(root, stage), problems[stage]) for stage in wanted}
    if not any(read.values()):
        read = _by_stage(root, results, notes)
    stages = [_stage(stage, root, results, read.get(stage, []), problems[stage], notes) for stage in wanted]
    return RunEvidence(
        path=str(path),
        root=str(root),
        kind="results",
        stages=stages,
        policy=thresholds.policy,
        policy_origin=thresholds.origin,
        notes=notes,
    )


def _by_stage(root: Path, results: layout.Results, notes: list[str]) -> dict[Stage, list[History]]:
    """Histories of a run directory: its wandb files, or a stage's newest export unless they went on since."""
    chosen: dict[Stage, list[History]] = {}
    for history in _readable(layout.of_run(layout.wandb_files(root), results), notes):
        if history.stage is not None:
            chosen.setdefault(history.stage, []).append(history)
    for history in _readable(layout.exports(root), notes):
        logged = chosen.get(history.stage, []) if history.stage is not None else []
        if history.stage is not None and all(layout.as_new_as(history.path, each.path) for each in logged):
            chosen[history.stage] = [history]
    return chosen


def _readable(paths: Iterable[Path], notes: list[str]) -> list[History]:
    found = []
    for path in paths:
        try:
            found.append(histories.read(path))
        except BundleError as error:
            notes.append(str(error))
    return found


def _stage(
    stage: Stage,
    root: Path,
    results: layout.Results | None,
    read: Sequence[History],
    problems: Sequence[str],
    notes: list[str],
) -> StageEvidence:
    """A stage's evidence; `problems` are those of its histories, `notes` take what is said once for all."""
    place = results.path / stage if results is not None else None
    inventory = take_inventory(place / "checkpoints") if place is not None else Inventory()
    if inventory.note is not None and inventory.note not in notes:
        notes.append(inventory.note)
    sheets = look_at_sheets(place / "visualizations", stage) if place is not None else Sheets()
    logged = next((dict(history.config) for history in reversed(read) if history.config), {})
    return StageEvidence(
        stage,
        root=str(root),
        columns=stitch([history.columns for history in read]) if read else None,
        histories=[str(history.path) for history in read],
        history_problems=[*problems, *(history.problem for history in read if history.problem is not None)],
        checkpoints=inventory.checkpoints if place is not None else None,
        sheets=[str(sheet) for sheet in sheets.paths],
        early=sheets.early,
        late=sheets.late,
        visual_problem=sheets.problem,
        config={**inventory.config, **logged},
    )


# --- histories alone --------------------------------------------------------------------------------------


def _history_files(
    files: Sequence[Path], path: Path, thresholds: Thresholds, only: Stage | None, *, kind: Kind
) -> RunEvidence:
    notes: list[str] = []
    read = [histories.read(files[0])] if len(files) == 1 else _readable(files, notes)
    if len(read) == 1 and only is not None:
        read = [replace(read[0], stage=only)]
    if unknown := [str(history.path) for history in read if history.stage is None]:
        if len(unknown) == len(read):
            raise BundleError(f"{', '.join(unknown)}: of which stage? Say so with --stage")
        notes.append(f"{', '.join(unknown)}: left aside, neither name nor columns tell the stage")
    pieces = {
        stage: [history for history in read if history.stage == stage]
        for stage in STAGES
        if only in (None, stage)
    }
    if not any(pieces.values()):
        raise BundleError(f"{path}: no history of {only or 'any stage'}: {'; '.join(notes)}")
    stages = []
    for stage, found in pieces.items():
        if not found:
            continue
        used = found[-1:] if kind == "history" else found
        stages.append(
            StageEvidence(
                stage,
                root=str(path),
                columns=stitch([history.columns for history in used]),
                histories=[str(history.path) for history in used],
                history_problems=[each.problem for each in used if each.problem is not None],
                config=used[-1].config,
            )
        )
    return RunEvidence(
        path=str(path),
        root=str(path),
        kind=kind,
        stages=stages,
        policy=thresholds.policy,
        policy_origin=thresholds.origin,
        notes=notes,
    )
