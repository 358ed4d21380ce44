"""What must hold at the end of a run in a plant, whatever happened on the way."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from typing import Any

from shared.bus.journal import read_journal
from shared.bus.protocol import Recorded
from shared.events import (
    ChunkStarted,
    CommandTimedOut,
    GateDecided,
    ReportWritten,
    RunFinished,
    RunPaused,
    Stage,
)
from tests.chaos.plant import REPORTS, RUN, STAGE, Plant
from tests.chaos.ranks import number
from tests.chaos.unruly import Unruly
from tests.unit.gatekeeper.promises import Promises

TARGETS: dict[Stage, int] = {"video_tokenizer": 8, "latent_actions": 4, "dynamics": 4}
INTERVAL = int(str(STAGE["log_interval"]))


@dataclass(frozen=True)
class Result:
    """What has to be the same in every run, disturbed or not."""

    gates: list[tuple[Any, ...]]
    weights: dict[str, float]
    history: dict[str, list[dict[str, str]]]


def result(plant: Plant, log: list[Recorded]) -> Result:
    """Decisions, weights and history."""
    gates = {each.message.id: each.message for each in log if isinstance(each.message, GateDecided)}.values()
    history = {}
    for stage in TARGETS:
        for path in sorted((plant.bundle.logs / "history" / stage).glob("*.csv")):
            with path.open(newline="") as stream:
                history[f"{stage}/{path.name}"] = [
                    {key: value for key, value in row.items() if key != "_runtime"}
                    for row in csv.DictReader(stream)
                ]
    return Result(
        [
            (each.stage, each.attempt, each.gate_step, each.decision, each.reason, each.retries_used)
            for each in gates
        ],
        {stage: number(plant.bundle.checkpoint(stage, target)) for stage, target in TARGETS.items()},
        history,
    )


def check(plant: Plant, log: list[Recorded], expected: Result) -> None:
    """Every promise, or an AssertionError that names the one that was broken."""
    messages = [each.message for each in log]
    ends = {each.id: each.status for each in messages if isinstance(each, RunFinished)}
    assert list(ends.values()) == ["passed"], f"ends in the right state, once: {ends}"
    if not isinstance(plant.broker, Unruly):
        twice = [name for name, count in Counter(each.id for each in messages).items() if count > 1]
        assert not twice, f"in the log twice: {twice}"
    promises = Promises()
    for recorded in log:
        promises.take(recorded)
    promises.at_the_end()
    assert not [each for each in messages if isinstance(each, RunPaused | CommandTimedOut)], "nobody waited"
    assert result(plant, log) == expected, "the same gates, weights and history"
    _training(plant, messages)
    written = {each.report: each for each in messages if isinstance(each, ReportWritten)}
    assert {kind for kind, each in written.items() if each.ok} == set(REPORTS), "all reports"
    for each in written.values():
        assert each.path is not None
        assert (plant.bundle.root / each.path).stat().st_size > 0, "a report that is there"
    kept = [(each.sequence, each.message) for each in read_journal(plant.bundle.events)]
    assert kept == [(each.sequence, each.message) for each in log], "the bundle's events are the log's"
    assert not plant.broker.dead, f"dead letters: {[each.reason for each in plant.broker.dead]}"


def _training(plant: Plant, messages: list[Any]) -> None:
    floor, died = plant.floor, plant.fate.died
    for stage, attempt, step, newest in floor.launches:
        assert step >= newest, f"{stage}/{attempt} went on from {step}, could have from {newest}"
    made = Counter(floor.trained)
    again = sum(made.values()) - len(made)
    deaths = died["trainer"] + died["rank"] + died["checkpoint"]
    assert again <= deaths * INTERVAL, f"{again} updates were made again after {deaths} deaths"
    for (stage, attempt, _), count in made.items():
        assert count <= deaths + 1, f"{stage}/{attempt}: an update made {count} times"
    begun = {
        each.id: (each.stage, each.attempt, each.launch)
        for each in messages
        if isinstance(each, ChunkStarted)
    }
    assert len(begun) == len(set(begun.values())), "a launch told twice"
    assert {each.run_id for each in messages} == {RUN}
