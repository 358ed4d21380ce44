"""Whoever, whenever: kills at a mean time of 20 s for ten minutes."""

from __future__ import annotations

import contextlib
import os
import random
import time
from pathlib import Path

import psutil
import pytest

from tests.chaos.deployment import SERVICES, Deployment
from tests.chaos.tally import Tally

MEAN_SEC = 20.0
LASTS_SEC = float(os.environ.get("CHAOS_RANDOM_SEC", "600"))
VICTIMS = (*SERVICES, "nats-server", "rank")
SIZE = {"target": 240, "chunk": 60}
pytestmark = pytest.mark.timeout(3 * LASTS_SEC + 900)


@pytest.fixture(scope="module")
def long_undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    world = Deployment(tmp_path_factory.mktemp("long"), **SIZE)
    return world.quiet(*world.train())


def test_random_kills_leave_the_weights_of_an_undisturbed_run(
    long_undisturbed: Deployment, tally: Tally, tmp_path: Path
) -> None:
    dice = random.Random(20261121)
    end, number = time.monotonic() + LASTS_SEC, 0
    while time.monotonic() < end:  # a run may be over before the ten minutes are
        number += 1
        disturb(tmp_path / str(number), end, dice, tally, long_undisturbed)


def disturb(directory: Path, end: float, dice: random.Random, tally: Tally, like: Deployment) -> None:
    """One run with kills until it is over, or the time for kills is."""
    directory.mkdir()
    world = Deployment(directory, **SIZE)
    relaunches = 0
    try:
        run = world.start(*world.train())
        world.chunks(1)
        while run.poll() is None and time.monotonic() < end:
            time.sleep(dice.expovariate(1 / MEAN_SEC))
            victim = dice.choice(VICTIMS)
            relaunches += victim in ("trainer", "rank")
            hit(world, victim, dice, tally)
        world.ends(run, timeout=900)
        world.promises(relaunches=relaunches)
        world.same_as(like)
    finally:
        world.close()


def hit(world: Deployment, victim: str, dice: random.Random, tally: Tally) -> None:
    """Kill somebody, if he is there."""
    named = [each for name, each in world.processes().items() if name == victim]
    found = world.ranks() if victim == "rank" else named
    for process in dice.sample(found, k=min(1, len(found))):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            tally.fault(f"random kill of {victim}")
