"""Processes stopped for longer than every timeout, a server that is away, two of what there is one of."""

from __future__ import annotations

import signal

import psutil
import pytest

from tests.chaos.deployment import LONG_SEC, STAGES, Deployment
from tests.chaos.tally import Tally

AWAY_SEC = 60.0
pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize("victim", ["gatekeeper", "trainer", "monitor", "reporter", "inference"])
def test_a_service_stopped_for_longer_than_every_timeout_goes_on(
    world: Deployment, request: pytest.FixtureRequest, tally: Tally, victim: str
) -> None:
    run = world.start(*(world.train() if victim == "inference" else world.one_stage()))
    if victim == "inference":  # stopped before it is asked for something
        world.wait("the test", lambda: len(world.seen("stage_completed")) >= 2)
    else:
        world.checkpoints(STAGES[0], 2)
    with world.stopped([world.processes()[victim]]):
        tally.fault(f"SIGSTOP of {victim} for {LONG_SEC:.0f} s")
    world.ends(run)
    world.promises(relaunches=0)
    like = "undisturbed_whole" if victim == "inference" else "undisturbed"
    world.same_as(request.getfixturevalue(like))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs_is_relaunched(
    world: Deployment, undisturbed: Deployment, tally: Tally, rank: int
) -> None:
    world.expects("hang_timeout_sec: 240", "hang_timeout_sec: 30")
    run = world.start(*world.one_stage())
    world.checkpoints(STAGES[0], 2)
    hung = world.training()
    hung[rank].send_signal(signal.SIGSTOP)
    tally.fault("SIGSTOP of a rank for good: it hangs")
    world.wait("the hanging ranks to be ended", lambda: not any(psutil.pid_exists(each.pid) for each in hung))
    world.ends(run)
    world.promises(relaunches=3)  # a busy machine may take longer to launch it, too
    world.same_as(undisturbed)


def test_a_server_that_is_gone_for_a_minute_is_waited_for(
    world: Deployment, undisturbed: Deployment, tally: Tally
) -> None:
    run = world.start(*world.one_stage())
    world.checkpoints(STAGES[0], 2)
    stack = world.processes()
    with world.stopped([stack["supervisor"]], AWAY_SEC):  # or it would be back at once
        stack["nats-server"].send_signal(signal.SIGKILL)
        tally.fault(f"nats-server gone for {AWAY_SEC:.0f} s")
    world.ends(run)
    world.promises(relaunches=3)  # who waited for a minute in vain begins anew
    world.same_as(undisturbed)


def test_a_server_that_is_restarted_again_and_again(
    world: Deployment, undisturbed: Deployment, tally: Tally
) -> None:
    run = world.start(*world.one_stage())
    for number in (1, 3, 5):
        world.checkpoints(STAGES[0], number)
        server = world.processes()["nats-server"]
        server.send_signal(signal.SIGTERM)
        took = world.comes_back("nats-server", server)
        tally.fault("nats-server restarted (SIGTERM)", recovery_sec=took)
    world.ends(run)
    world.promises(relaunches=0)
    world.same_as(undisturbed)


@pytest.mark.parametrize("service", ["gatekeeper", "trainer"])
def test_two_of_a_service_do_the_work_of_one(
    world: Deployment, undisturbed: Deployment, tally: Tally, service: str
) -> None:
    run = world.start(*world.one_stage())
    world.chunks(1)
    second = world.second(service)
    tally.fault(f"two {service}s")
    try:
        world.checkpoints(STAGES[0], 2)
        world.kill(service)  # for a moment, or from now on, the second has all to do
        tally.fault(f"two {service}s, one of them killed")
        world.ends(run)
        assert second.poll() is None, f"the second {service} has died"
    finally:
        second.terminate()
        second.wait(timeout=30)
    world.promises(relaunches=1 if service == "trainer" else 0)
    world.same_as(undisturbed)
