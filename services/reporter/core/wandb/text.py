"""The words and the JSON document of `wandb-analysis-*`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from services.reporter.core.hostile import code, inline
from services.reporter.core.markdown import bullets, count_of, folded, link, number, shown, table
from services.reporter.core.wandb.figures import Figures, figures, updates_per_second, window
from services.reporter.core.wandb.history import StageHistory
from services.reporter.core.wandb.table import LOSS, METRICS, UNIQUE_ACTIONS
from shared.events import Stage

READING = (
    "Rows count when they led to the weights that the stage has now; superseded ones are in no figure.",
    "Figures are over rows with a finite value. First and last 10 % are of these, at least one row.",
    "Windows here span the whole stage; those at the gates span one chunk.",
)
NOTHING_TO_DO = "Nothing that these figures ask for; the gates decide on them, in the training report."
METRIC_COLUMNS = (
    *("metric", "first 10 %", "last 10 %", "last - first"),
    *("early", "mid", "late", "final", "lowest", "highest"),
)
NO_HISTORY = "There is no history of any stage: nothing was trained, or no row of it was kept."


def report(
    title: str,
    asked: str,
    histories: Sequence[StageHistory],
    plots: Mapping[Stage, str],
    *,
    in_bundle: bool,
) -> str:
    """The report in markdown.

    Args:
        title: Which run, for the first line.
        asked: What was asked for: api_first, api_only, local_only.
        histories: One a stage; those without rows too.
        plots: Stage -> its picture, relative to the report.
        in_bundle: Files are named relative to the bundle and are linked; else they are only named.
    """
    found = {history.stage: figures(history.counted, LOSS) for history in histories}
    lines = [f"# W&B analysis: {inline(title)}", ""]
    if not histories:
        return "\n".join([*lines, NO_HISTORY]) + "\n"
    happened = " ".join(_sentence(each, found[each.stage]) for each in histories)
    lines += [f"**What happened.** {happened}", ""]
    lines += [f"**What to trust.** Asked for: {asked}. {' '.join(_origins(histories))}", ""]
    lines += [f"**What to do next.** {' '.join(_actions(histories)) or NOTHING_TO_DO}", ""]
    lines += table(
        (
            "stage",
            "source",
            "rows",
            "updates",
            "final loss",
            "lowest",
            "first 10 %",
            "last 10 %",
            "last - first",
        ),
        [_row(each, found[each.stage]) for each in histories],
    )
    for each in histories:
        lines += _stage(each, plots.get(each.stage), in_bundle=in_bundle)
    lines += ["", "## How to read it", ""]
    return "\n".join([*lines, *bullets(READING, "")]) + "\n"


def switched_off(title: str) -> str:
    """The report of a run that wanted no analysis."""
    return (
        f"# W&B analysis: {inline(title)}\n\nIt was not wanted: `reporter.enable_wandb_analysis` is false "
        "(`--enable-wandb-analysis`). The history is in `Logs/`, the losses are in the training report.\n"
    )


def document(histories: Sequence[StageHistory]) -> dict[str, Any]:
    """The same as one JSON object: stage -> what is known of it."""
    return {history.stage: stage_document(history) for history in histories}


def stage_document(history: StageHistory) -> dict[str, Any]:
    """One stage."""
    table_ = history.counted
    known = {name: figures(table_, name) for name in METRICS}
    return {
        "source": history.source,
        "why": history.why,
        "runs": list(history.runs),
        "files": list(history.files),
        "notes": list(history.notes),
        "config": plain(history.config),
        "config_of": history.config_of,
        "changed_since": {
            key: {"wandb": plain(old), "plan": plain(new)} for key, (old, new) in history.changed.items()
        },
        "summary": dict(sorted(history.summary.items())),
        "rows": len(table_),
        "rows_superseded": sum(len(each) for each in history.superseded),
        "rows_without_finite_loss": len(table_) - len(table_.known(LOSS)[0]),
        "updates_per_second": updates_per_second(table_),
        "rolling_mean_rows": window(len(table_.known(LOSS)[0])),
        "metrics": {name: asdict(each) for name, each in known.items() if each is not None},
    }


def plain(value: Any) -> Any:
    """A value as JSON can hold it: a number that is not finite is a text, as W&B has it."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _sentence(history: StageHistory, found: Figures | None) -> str:
    if found is None:
        return f"{history.stage}: no row with a loss counts."
    if found.rows == 1:
        return f"{history.stage}: one row, loss {number(found.final)}."
    verb = "fell" if found.delta < 0 else "rose" if found.delta > 0 else "stayed"
    return (
        f"{history.stage}: the loss {verb} from {number(found.first10)} (first 10 %) to "
        f"{number(found.last10)} (last 10 %), lowest {number(found.lowest)} at update {found.lowest_step}."
    )


def _origins(histories: Sequence[StageHistory]) -> list[str]:
    """A sentence for each source and reason."""
    stages: dict[tuple[str, str], list[str]] = {}
    for each in histories:
        stages.setdefault((each.source, each.why), []).append(each.stage)
    return [f"{', '.join(names)}: {source}; {inline(why)}." for (source, why), names in stages.items()]


def _actions(histories: Sequence[StageHistory]) -> list[str]:
    """A sentence for each stage whose figures ask for a look."""
    found = []
    for each in histories:
        loss, unique = (figures(each.counted, name) for name in (LOSS, UNIQUE_ACTIONS))
        if loss is None or loss.rows < len(each.counted):
            found.append(f"Look why rows of {each.stage} have no finite loss.")
        elif loss.delta > 0:
            found.append(
                f"The loss of {each.stage} ended above where it began: see its gates and learning rate."
            )
        if unique is not None and unique.last10 < 2:
            found.append(
                f"The actions of {each.stage} fell to one: `worldloop diagnose` says what that means."
            )
    return found


def _row(history: StageHistory, found: Figures | None) -> tuple[object, ...]:
    rows = f"{len(history.counted)}"
    if found is None:
        return history.stage, history.source, rows, "none", *(["none"] * 5)
    updates = f"{found.first_step} to {found.last_step}"
    values = (found.final, found.lowest, found.first10, found.last10, found.delta)
    return history.stage, history.source, rows, updates, *values


def _stage(history: StageHistory, plot: str | None, *, in_bundle: bool) -> list[str]:
    lines = ["", f"## {history.stage}", ""]
    lines += [f"![metrics of {history.stage} over its updates]({plot})", ""] if plot is not None else []
    lines += _metrics(history)
    files = [link(file) if in_bundle else code(file) for file in history.files]
    facts = [f"source: {history.source}; rows from {', '.join(files) or 'nowhere'}"]
    if history.runs:
        facts.append(f"{count_of(len(history.runs), 'W&B run')}: {', '.join(map(code, history.runs))}")
    if pace := updates_per_second(history.counted):
        facts.append(f"pace: {number(pace)} updates/s (median)")
    if void := sum(len(each) for each in history.superseded):
        facts.append(f"superseded by a rollback: {count_of(void, 'row')}")
    if without := len(history.counted) - len(history.counted.known(LOSS)[0]):
        facts.append(f"without a finite loss: {count_of(without, 'row')}")
    lines += ["", *bullets([*facts, *map(inline, history.notes)], "")]
    if history.changed:
        lines += ["", "Values that were retuned after W&B's run had begun:", ""]
        changed = [
            (code(key), shown(plain(old)), shown(plain(new))) for key, (old, new) in history.changed.items()
        ]
        lines += table(("key", "W&B's configuration", "newest plan"), changed)
    if history.summary:
        lines += ["", "Summary, the last number of each among the rows that count:", ""]
        lines += table(
            ("name", "value"), [(code(name), value) for name, value in sorted(history.summary.items())]
        )
    if history.config:
        rows = [(code(key), shown(plain(value))) for key, value in history.config.items()]
        lines += ["", *folded(f"Configuration ({inline(history.config_of)})", table(("key", "value"), rows))]
    return lines


def _metrics(history: StageHistory) -> list[str]:
    known = [(name, figures(history.counted, name)) for name in METRICS]
    return table(
        METRIC_COLUMNS,
        [
            (
                *(f"`{name}`", each.first10, each.last10, each.delta),
                *(each.early, each.mid, each.late, each.final, each.lowest, each.highest),
            )
            for name, each in known
            if each is not None
        ],
    )
