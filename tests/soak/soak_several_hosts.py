"""A run over several hosts whose network fails them. `make soak`; outside of CI, it takes minutes."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import nats
import pytest

from shared.bus import streams
from shared.bus.jetstream import JetStreamBus
from shared.events import ChunkStarted, Event, GateDecided, NodeJoined, RunFinished
from tests.e2e.world import World
from tests.soak.hosts import CLIENT, MEETING, Host, hosts, wait

PATIENCE = """
  trainer: {hang_timeout_sec: 60, kill_grace_sec: 1}
"""


def url(host: Host) -> str:
    return f"nats://{host.address}:{CLIENT}"


async def told(urls: str) -> list[Event]:
    """All events of the log, in order."""
    bus = await JetStreamBus.connect(urls, wait_sec=None)
    try:
        return [each.message for each in await bus.events() if isinstance(each.message, Event)]
    finally:
        await bus.close()


async def leader(urls: str) -> str:
    """The server that leads the stream of events."""
    client = await nats.connect(urls.split(","))
    try:
        info: Any = await client.jetstream().stream_info(streams.EVENTS)
        return str(info.cluster.leader)
    finally:
        await client.close()


@pytest.mark.timeout(1500)
def test_a_run_over_two_hosts_survives_a_cut_link_and_the_loss_of_the_leader(tmp_path: Path) -> None:
    world = World(tmp_path)
    profile = tmp_path / "configs" / "profiles" / "tiny.yaml"
    profile.write_text(profile.read_text() + PATIENCE)
    with hosts(3, tmp_path, world.environment) as (third, first, second):
        urls = ",".join(map(url, (third, first, second)))
        for name in ("gatekeeper", "monitor", "inference", "reporter"):
            third.start_service(name)
        first.start_service("trainer")
        second.start_service("trainer", "--node-rank", "1")

        def events() -> list[Event]:
            return asyncio.run(told(urls))

        def chunks() -> list[ChunkStarted]:
            return [each for each in events() if isinstance(each, ChunkStarted)]

        world.environment |= {"WORLDLOOP_NATS_URL": urls, "WORLDLOOP_NATS_REPLICAS": "3"}
        running = world.start(
            *world.train(
                "n_updates=16", "--nnodes", "2", "--nproc-per-node", "1",
                "--rdzv-endpoint", f"{first.address}:{MEETING}",
            )
        )  # fmt: skip
        try:
            wait(lambda: any(isinstance(each, NodeJoined) for each in events()), "the second host joins")
            before = len(chunks())
            second.cut()
            wait(lambda: len(chunks()) > before, "the launch that lost a host is followed by another")
            second.heal()
            wait(lambda: any(isinstance(each, GateDecided) for each in events()), "a gate is decided")
            name = asyncio.run(leader(urls))
            lost = next(host for host in (third, first, second) if name == f"n{host.number}")
            lost.kill_server()
            gates = sum(isinstance(each, GateDecided) for each in events())
            wait(
                lambda: sum(isinstance(each, GateDecided) for each in events()) > gates,
                "gates are decided with two of three servers",
            )
            lost.start_server([other.address for other in (third, first, second) if other is not lost])
            code = running.wait(timeout=900)
        finally:
            running.kill()
            running.wait()
        output = (tmp_path / "cli.log").read_text()
        assert code == 0, output[-4000:]
        log = events()
    [end] = [each for each in log if isinstance(each, RunFinished)]
    assert end.status == "passed"
    decided = Counter((each.stage, each.attempt) for each in log if isinstance(each, GateDecided))
    assert set(decided.values()) == {1}, "nothing was decided twice"
    assert not [name for name, count in Counter(each.id for each in log).items() if count > 1]
    assert world.events(), "the bundle has the log"
