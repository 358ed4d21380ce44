"""Every crash there is: `python -m tests.chaos.crashes [--every N] [--part I/K] [--pairs N] ...`.

An undisturbed run numbers the effects of each process. Then there is one run for each number, in which the
process dies there and is started again; runs with two deaths drawn at random; with a broker that repeats,
reorders and delays; with two gatekeepers or two trainers, one of which dies somewhere; with a checkpoint that
breaks. Prints one JSON object a line for every run that broke a promise, then one with the counts.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import structlog
import torch

from shared.bus.memory import Broker
from shared.bus.protocol import Recorded
from tests.chaos.clock import JumpingLoop
from tests.chaos.death import Fate, Server, task_of_process, watch_files
from tests.chaos.plant import Plant
from tests.chaos.promised import Result, check, result
from tests.chaos.unruly import Unruly

Effects = Mapping[str, list[str]]
SEED = 9


@dataclass(frozen=True)
class Scenario:
    """What goes wrong in one run."""

    what: str
    deaths: Mapping[str, frozenset[int]]
    seed: int | None = None
    """Of an unruly broker; none has an orderly one."""
    twice: tuple[str, ...] = ()
    damage: int | None = None
    """Seed of what breaks of a checkpoint; none breaks nothing."""
    away: tuple[int, float] | None = None
    """Request at which the server leaves, and for how many seconds; none stays."""


def crashes(effects: Effects) -> Iterator[Scenario]:
    """One death each."""
    for name, done in sorted(effects.items()):
        for at in range(len(done)):
            yield Scenario("a crash", {name: frozenset({at})})


def pairs(effects: Effects, count: int) -> Iterator[Scenario]:
    """Two deaths each, of one process or of two, drawn at random."""
    dice = random.Random(SEED)
    for _ in range(count):
        deaths: defaultdict[str, set[int]] = defaultdict(set)
        for name in dice.choices(sorted(effects), k=2):
            deaths[name].add(dice.randrange(len(effects[name])))
        yield Scenario("two crashes", {name: frozenset(at) for name, at in deaths.items()})


def unruly(effects: Effects, count: int) -> Iterator[Scenario]:
    """Messages repeated, reordered and delayed; in every second run somebody dies, too."""
    dice = random.Random(SEED)
    for seed in range(count):
        name = dice.choice(sorted(effects))
        death = {name: frozenset({dice.randrange(len(effects[name]))})} if seed % 2 else {}
        yield Scenario("messages repeated, reordered, delayed", death, seed=seed)


def doubles(effects: Effects, count: int) -> Iterator[Scenario]:
    """Two gatekeepers, or two trainers; in all runs but the first one of the two dies somewhere."""
    dice = random.Random(SEED)
    for name in ("gatekeeper", "trainer"):
        for number in range(count):
            at = frozenset({dice.randrange(len(effects[name]))}) if number else frozenset[int]()
            yield Scenario(f"two {name}s", {name: at}, twice=(name,))


def damages(effects: Effects, count: int) -> Iterator[Scenario]:
    """A rank dies, and the newest checkpoint is cut off or has a bit turned somewhere."""
    dice = random.Random(SEED)
    for seed in range(count):
        at = frozenset({dice.randrange(len(effects["rank"]))})
        yield Scenario("checkpoint truncated or bit-flipped", {"rank": at}, damage=seed)


def outages(effects: Effects, count: int) -> Iterator[Scenario]:
    """The server goes at some request, and stays away for up to two minutes."""
    dice = random.Random(SEED)
    requests = sum(len(done) for done in effects.values()) // 2
    for _ in range(count):
        away = dice.randrange(requests), dice.choice((1.0, 30.0, 59.0, 61.0, 120.0))
        yield Scenario("server away for up to 2 minutes", {}, away=away)


def play(plant: Plant) -> list[Recorded]:
    """A run from its beginning to its end, in a loop of its own."""
    loop = JumpingLoop()
    loop.set_task_factory(task_of_process)
    loop.set_exception_handler(lambda *_: None)  # of tasks whose process died
    try:
        return loop.run_until_complete(plant.run())
    finally:
        loop.close()


def attempt(directory: Path, scenario: Scenario, expected: Result) -> tuple[Plant, str | None]:
    """One run; what broke, if anything did."""
    broker = Broker() if scenario.seed is None else Unruly(dice=random.Random(scenario.seed))
    damage = None if scenario.damage is None else random.Random(scenario.damage)
    server = Server(*scenario.away) if scenario.away is not None else None
    plant = Plant(
        directory, Fate(scenario.deaths), broker=broker, twice=scenario.twice, damage=damage, server=server
    )
    try:
        check(plant, play(plant), expected)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        where = traceback.extract_tb(error.__traceback__)[-1]
        return plant, f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    return plant, None


def kind(effect: str) -> str:
    """What an effect is, without what it is done to."""
    words = effect.split(" ")
    if words[0] in ("before", "after"):
        return " ".join(words[:2])
    return "file opened for writing" if words[0] == "open" else words[0].removeprefix("os.")


def _drop(*_: Any) -> NoReturn:
    """What services log is not looked at."""
    raise structlog.DropEvent


def main() -> int:
    """Break, restart, check."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (
        ("every", 1),
        ("pairs", 0),
        ("unruly", 0),
        ("doubles", 0),
        ("damages", 0),
        ("outages", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--part", default="0/1")
    given = parser.parse_args()
    part, parts = map(int, given.part.split("/"))
    torch.set_num_threads(1)
    structlog.configure(processors=[_drop])
    injected, right = Counter[str](), Counter[str]()
    died: defaultdict[str, Counter[str]] = defaultdict(Counter)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        watch_files(root)
        plain = Plant(root / "plain", Fate())
        log = play(plain)
        expected = result(plain, log)
        check(plain, log, expected)
        effects = plain.fate.effects
        scenarios = [
            *list(crashes(effects))[:: given.every],
            *pairs(effects, given.pairs),
            *unruly(effects, given.unruly),
            *doubles(effects, given.doubles),
            *damages(effects, given.damages),
            *outages(effects, given.outages),
        ]
        for scenario in scenarios[part::parts]:
            plant, problem = attempt(root / "run", scenario, expected)
            shutil.rmtree(root / "run")
            fate = plant.fate
            if scenario.what == "a crash" and not fate.died:
                continue  # the reporter's files go by the second: now and then it needs fewer folders
            if scenario.damage is not None and not fate.died.pop("checkpoint", 0):
                continue  # it died before its first checkpoint
            for who, count in fate.died.items():
                places = sorted(scenario.deaths.get(who, ()))[:count]
                died[who].update(kind(fate.effects[who][at]) for at in places)
            injected[scenario.what] += 1
            right[scenario.what] += problem is None
            if problem is not None:
                print(json.dumps({"broken": problem, "in": _told(scenario, fate)}), flush=True)
    print(json.dumps({"injected": injected, "right": right, "deaths": died}))
    return int(injected != right)


def _told(scenario: Scenario, fate: Fate) -> dict[str, Any]:
    """A scenario, for whoever wants to see it again."""
    deaths = {
        who: {at: fate.effects[who][at] for at in sorted(places) if at < len(fate.effects.get(who, []))}
        for who, places in scenario.deaths.items()
    }
    return {**vars(scenario), "deaths": deaths}


if __name__ == "__main__":
    sys.exit(main())
