"""The histories of a run of ours: by attempts, so that what a rollback superseded is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.reporter.config import WandbSource
from services.reporter.core.story import Attempt, Story
from services.reporter.core.wandb.history import Source, StageHistory
from services.reporter.core.wandb.spans import Span, spans
from services.reporter.core.wandb.table import EMPTY, Table, joined
from services.reporter.wandb import api, runs
from services.reporter.wandb.logged import Counts, Logged, read
from shared.bundle import Bundle
from shared.errors import BundleError, WorldloopError
from shared.events import STAGES, Stage

INSTEAD = "Or take the local files: 'worldloop report wandb RUN --source api_first'"


def fetched(bundle: Bundle, run_id: str) -> Path:
    """What W&B's API gave of a run: kept, so that the report can be built again from the bundle."""
    return bundle.logs / "wandb" / f"{run_id}.jsonl"


@dataclass(frozen=True, slots=True)
class _Told:
    """One stage, as the events tell it."""

    stage: Stage
    attempts: Sequence[Attempt]
    spans: Sequence[Span]

    def runs(self) -> list[str]:
        """Ids of the W&B runs that rows of the stage went to, in order."""
        return list(dict.fromkeys(span.done.wandb_run_id for span in self.spans if span.done.wandb_run_id))


def histories(
    bundle: Bundle,
    story: Story,
    source: WandbSource,
    *,
    again: bool,
    by_hand: bool = True,
    limits: api.Limits = api.LIMITS,
) -> list[StageHistory]:
    """The history of each stage that was trained.

    Args:
        bundle: Where the run's files are.
        story: The run.
        source: W&B's API first, only that, or only local files.
        again: W&B is not asked: what its API gave before counts.
        by_hand: Somebody asks who can be told that the API has nothing; at a run's end its policy asks, and
            days of training must not fail on that.
        limits: When W&B is given up.

    Raises:
        WorldloopError: By hand, only the API may be used, and it has no history; the text says why and what
            to do.
        OSError: The disk refused.
    """
    told = [_told(story, stage) for stage in STAGES]
    trained = [each for each in told if each.spans]
    why_not = {each.stage: _why_not_asked(bundle, story, each, source) for each in trained}
    asked = [each for each in trained if why_not[each.stage] is None]
    if asked and not again:
        paths = {run: path for each in asked for run, path in _paths(bundle, story, each)}
        api.fetch(paths, bundle.logs / "wandb", limits)
    found = []
    for each in trained:
        why = why_not[each.stage] or _problem(bundle, each)
        if why is None:
            found.append(_of_api(bundle, story, each))
        elif source == "api_only" and each.runs():
            lacks = f"api_only was asked for, but W&B's API has no history of {each.stage}: {why}. {INSTEAD}"
            if by_hand:
                raise WorldloopError(lacks)
            found.append(StageHistory(each.stage, "none", lacks, EMPTY, runs=each.runs()))
        else:
            found.append(_of_files(bundle, story, each, why))
    return found


def _told(story: Story, stage: Stage) -> _Told:
    attempts = list(story.of(stage))
    return _Told(stage, attempts, spans(attempts))


# --- whether W&B is asked ---------------------------------------------------------------------------------


def _why_not_asked(bundle: Bundle, story: Story, told: _Told, source: WandbSource) -> str | None:
    if not told.runs():
        disabled = story.configuration.training.wandb == "disabled"
        return f"nothing was logged to W&B{' (wandb: disabled)' if disabled else ''}"
    if source == "local_only":
        return "only local files were asked for"
    if story.spec.backend == "checkout":
        return (
            "a checkout's own steps begin anew at each launch; its rows were taken over under absolute ones"
        )
    directories = {span.done.wandb_dir for span in told.spans if span.done.wandb_dir is not None}
    if any(runs.unsent(bundle.resolve(each)) for each in directories):
        return runs.UNSENT
    odd = next((run for run in told.runs() if not runs.ID.fullmatch(run)), None)
    return f"{odd!r} is no run id" if odd is not None else None


def _problem(bundle: Bundle, told: _Told) -> str | None:
    """Why the API's answers do not do; none if they do."""
    for run in told.runs():
        path = fetched(bundle, run)
        problem = api.problem_of(path) if path.is_file() else "it was not asked when the report was written"
        if problem is not None:
            return f"W&B run {run}: {problem}"
    return None


def _paths(bundle: Bundle, story: Story, told: _Told) -> Iterator[tuple[str, str]]:
    """Each run of a stage, and where W&B has it: as its file says, else as the run was configured."""
    for span in told.spans:
        if (run := span.done.wandb_run_id) is not None:
            yield run, runs.path_of(run, _file(bundle, span), story.configuration.training.wandb_project)


# --- reading ----------------------------------------------------------------------------------------------


def _of_api(bundle: Bundle, story: Story, told: _Told) -> StageHistory:
    logs = {run: read(fetched(bundle, run), _counting(told, run)) for run in told.runs()}
    why = "W&B's API has every run of the stage"
    return _history(bundle, story, told, "api", why, logs)


def _of_files(bundle: Bundle, story: Story, told: _Told, why: str) -> StageHistory:
    logs: dict[str, Logged] = {}
    problems = []
    for span in told.spans:
        run, file = span.done.wandb_run_id, _file(bundle, span)
        if run is not None and file is not None and run not in logs:
            try:
                logs[run] = read(file, _counting(told, run))
            except BundleError as error:
                problems.append(f"{error}.")
    return _history(bundle, story, told, "local", f"W&B's API was not used: {why}", logs, problems)


def _counting(told: _Told, run: str) -> Counts:
    """Whether the row that a W&B run has of a step is one that counts."""
    own = [span for span in told.spans if span.done.wandb_run_id == run]
    return lambda step: any(span.counts(step) for span in own)


def _file(bundle: Bundle, span: Span) -> Path | None:
    """The attempt's `.wandb` file, if it is still there."""
    if span.done.wandb_dir is None:
        return None
    return next(iter(sorted(bundle.resolve(span.done.wandb_dir).glob("*.wandb"))), None)


def _history(
    bundle: Bundle,
    story: Story,
    told: _Told,
    source: Source,
    why: str,
    logs: Mapping[str, Logged],
    problems: Sequence[str] = (),
) -> StageHistory:
    """Put a stage together: of each attempt W&B's rows, and its own file's for updates that these lack."""
    counted, superseded = list[Table](), list[Table]()
    summary, files, notes = dict[str, float](), dict[str, None](), list(problems)
    for span in told.spans:
        done, log = span.done, logs.get(span.done.wandb_run_id or "")
        table = EMPTY
        if log is not None and story.spec.backend == "own":
            table = log.table.between(done.start_step, done.end_step)
            files[bundle.relative(log.path)] = None
        if own := _own_rows(bundle, span, notes):
            missing = len(table)
            table = table.filled(own.table.between(done.start_step, done.end_step))
            missing = len(table) - missing
            if missing:
                files[bundle.relative(own.path)] = None
            if missing and log is not None and story.spec.backend == "own":
                notes.append(
                    f"{missing} updates of attempt {done.attempt} that W&B lacks are from its own file."
                )
            summary |= own.last
        summary |= log.last if log is not None else {}
        counted.append(table.between(done.start_step, span.edge))
        if len(void := table.between(span.edge, done.end_step)):
            superseded.append(void)
    notes += [f"{bundle.relative(log.path)}: {log.damage}." for log in logs.values() if log.damage]
    table = joined(counted)
    return StageHistory(
        stage=told.stage,
        source=source if len(table) or superseded else "none",
        why=why,
        counted=table,
        superseded=superseded,
        files=list(files),
        runs=[log.run or run for run, log in logs.items()] or told.runs(),
        summary=_only_in_summary(logs.values()) | summary,
        notes=notes,
        **_configured(told, logs),
    )


def _own_rows(bundle: Bundle, span: Span, notes: list[str]) -> Logged | None:
    """The rows that an attempt wrote beside W&B's."""
    if span.done.history is None:
        return None
    try:
        return read(bundle.resolve(span.done.history), span.counts)
    except BundleError as error:
        notes.append(f"{error}.")
        return None


def _only_in_summary(logs: Iterable[Logged]) -> dict[str, float]:
    """What was set in W&B's summaries, later runs last; rows say what they have better."""
    return {
        name: value
        for log in logs
        for name, value in log.summary.items()
        if isinstance(value, int | float) and not name.startswith("_")
    }


def _configured(told: _Told, logs: Mapping[str, Logged]) -> dict[str, Any]:
    """The newest W&B run's configuration, and where the newest plan differs; without one the plan's."""
    plans = [attempt.starts[-1].plan for attempt in told.attempts if attempt.starts]
    parameters: dict[str, Any] = dict(plans[-1].parameters) if plans else {}
    run = next((run for run in reversed(told.runs()) if run in logs), None)
    if run is None or not (config := dict(logs[run].config)):
        return {"config": parameters, "config_of": "the newest plan" if parameters else ""}
    changed = {
        key: (config[key], value)
        for key, value in parameters.items()
        if key in config and config[key] != value
    }
    return {"config": config, "config_of": f"W&B run {run}", "changed": changed}
