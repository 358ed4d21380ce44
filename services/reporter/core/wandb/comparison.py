"""Two or more runs of a stage side by side: what was set differently, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from services.reporter.core.hostile import code, inline
from services.reporter.core.markdown import count_of, number, shown, table
from services.reporter.core.wandb.figures import figures, updates_per_second, window
from services.reporter.core.wandb.history import StageHistory
from services.reporter.core.wandb.table import LOSS
from services.reporter.core.wandb.text import plain, stage_document
from shared.events import STAGES, Stage

Runs = Mapping[str, StageHistory]
"""Name of a run -> its history of one stage."""

ABSENT = "-"
CAUTION = (
    "Losses compare only where recording, frame size and architecture are the same: see what was configured. "
    "Rows superseded by a rollback are in no figure."
)
COLUMNS = (
    "run",
    "rows",
    "updates",
    "final loss",
    "lowest",
    "early",
    "mid",
    "late",
    "last - first",
    "updates/s",
)


def by_stage(runs: Mapping[str, Sequence[StageHistory]], only: Stage | None) -> dict[Stage, Runs]:
    """The stages of which at least two runs have a history, each with these."""
    stages: dict[Stage, Runs] = {}
    for stage in STAGES:
        having = {name: each for name, found in runs.items() for each in found if each.stage == stage}
        if only in (None, stage) and len(having) >= 2:
            stages[stage] = having
    return stages


def differences(runs: Runs) -> dict[str, list[Any]]:
    """Keys whose values are not the same in all runs -> the value of each, `-` where a run lacks it."""
    flat = {
        name: _flat({**history.config} | {key: new for key, (_, new) in history.changed.items()})
        for name, history in runs.items()
    }
    keys = dict.fromkeys(key for config in flat.values() for key in config)
    values = {key: [config.get(key, ABSENT) for config in flat.values()] for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def common_update(runs: Runs) -> int | None:
    """The last update that all runs have a loss of or have passed; none if one has no loss."""
    ends = [found.last_step if (found := figures(each.counted, LOSS)) else None for each in runs.values()]
    known = [end for end in ends if end is not None]
    return min(known) if len(known) == len(ends) else None


def losses_at(runs: Runs, step: int) -> dict[str, float]:
    """Of each run the mean of its last losses up to an update, of equally many rows in all of them."""
    known = {name: each.counted.between(-math.inf, step + 1).known(LOSS)[1] for name, each in runs.items()}
    size = min(window(len(losses)) for losses in known.values())
    return {name: float(losses[-size:].mean()) for name, losses in known.items() if len(losses)}


def comparison(stages: Mapping[Stage, Runs], plots: Mapping[Stage, str], alone: Mapping[Stage, str]) -> str:
    """The report in markdown.

    Args:
        stages: What is compared.
        plots: Stage -> picture, relative to the report.
        alone: Stages that only one run has -> its name.
    """
    names = list(dict.fromkeys(name for runs in stages.values() for name in runs))
    lines = [f"# Comparison: {' and '.join(map(inline, names))}", ""]
    lines += [
        f"**What came of it.** {' '.join(_sentence(stage, runs) for stage, runs in stages.items())}",
        "",
    ]
    lines.append(CAUTION)
    for stage, runs in stages.items():
        lines += ["", f"## {stage}", ""]
        lines += [f"![rolling mean of the loss of {stage}]({plots[stage]})", ""] if stage in plots else []
        lines += _figures(runs)
        lines += ["", *_differences(runs)]
    lines += [f"\n{stage}: only {inline(name)} has it." for stage, name in alone.items()]
    return "\n".join(lines) + "\n"


def comparison_document(stages: Mapping[Stage, Runs]) -> dict[str, Any]:
    """The same as one JSON object: stage -> differences, the update all have, and each run."""
    return {stage: _stage_document(runs) for stage, runs in stages.items()}


def _stage_document(runs: Runs) -> dict[str, Any]:
    update = common_update(runs)
    return {
        "common_update": update,
        "loss_at_common_update": losses_at(runs, update) if update is not None else {},
        "config_differences": {
            key: dict(zip(runs, map(plain, values), strict=True)) for key, values in differences(runs).items()
        },
        "runs": {name: stage_document(each) for name, each in runs.items()},
    }


def _sentence(stage: Stage, runs: Runs) -> str:
    update = common_update(runs)
    if update is None:
        return f"{stage}: not every run has a loss."
    ranked = sorted((value, name) for name, value in losses_at(runs, update).items())
    shown = ", ".join(f"{inline(name)} {number(value)}" for value, name in ranked)
    differ = count_of(len(differences(runs)), "configured value")
    return f"{stage}: loss around update {update}, the last that all have: {shown}; {differ} not alike."


def _figures(runs: Runs) -> list[str]:
    update = common_update(runs)
    head = COLUMNS if update is None else (*COLUMNS, f"around {update}")
    reached = losses_at(runs, update) if update is not None else {}
    rows = []
    for name, history in runs.items():
        found = figures(history.counted, LOSS)
        if found is None:
            rows.append((code(name), 0, *([ABSENT] * (len(head) - 2))))
            continue
        row = (code(name), found.rows, f"{found.first_step} to {found.last_step}", found.final)
        rest = (found.lowest, found.early, found.mid, found.late, found.delta)
        at = (reached.get(name, ABSENT),) if update is not None else ()
        rows.append((*row, *rest, updates_per_second(history.counted), *at))
    return table(head, rows)


def _differences(runs: Runs) -> list[str]:
    found = differences(runs)
    if not found:
        return ["They were configured alike, as far as their histories say."]
    head = ("configured", *map(code, runs))
    return table(head, [(code(key), *map(_setting, values)) for key, values in found.items()])


def _setting(value: Any) -> str:
    return shown(plain(value))


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return found
