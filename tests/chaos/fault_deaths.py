"""Kill -9: of each service, of nats-server, of a rank; each while it has work."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from tests.chaos.deployment import STAGES, Deployment
from tests.chaos.tally import Tally

pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("victim", ["gatekeeper", "trainer", "monitor", "reporter", "nats-server", "rank"])
def test_whoever_is_killed_comes_back_and_nothing_is_lost(
    world: Deployment, undisturbed: Deployment, tally: Tally, victim: str
) -> None:
    dice = random.Random(victim)
    run = world.start(*world.one_stage())
    last: Callable[[], object] = (
        (lambda: world.wait("the reports", lambda: world.seen("stage_completed")))
        if victim == "reporter"
        else (lambda: world.checkpoints(STAGES[0], 5))
    )
    for number, moment in enumerate((lambda: world.chunks(1), lambda: world.checkpoints(STAGES[0], 2), last)):
        moment()
        time.sleep(dice.random() / 4)
        if victim == "rank":
            tally.fault("kill -9 of one rank", recovery_sec=world.kill_rank(number % 2))
        else:
            tally.fault(f"kill -9 of {victim}", recovery_sec=world.kill(victim))
    world.ends(run)
    world.promises(relaunches=3 if victim in ("rank", "trainer") else 0)
    world.same_as(undisturbed)


def test_an_inference_service_that_is_killed_over_its_test_makes_it_again(
    world: Deployment, undisturbed_whole: Deployment, tally: Tally
) -> None:
    run = world.start(*world.train())
    world.wait("the test", lambda: len(world.seen("stage_completed")) == len(STAGES))
    for _ in range(2):
        tally.fault("kill -9 of inference", recovery_sec=world.kill("inference"))
    world.ends(run)
    assert len(world.named("inference_done")) == 1
    world.promises(relaunches=0)
    world.same_as(undisturbed_whole)
