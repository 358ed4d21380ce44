"""A chunk over several hosts, without any: what is sent to whom, and what the hosts' deaths mean together."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ValidationError

from services.trainer import party as parties
from services.trainer.core.ends import Death, death
from services.trainer.core.launch import LAUNCHER, Meeting, command, local_ranks, world_size
from services.trainer.core.nodes import together
from services.trainer.meeting import INTERFACES, interfaces, meeting_of
from services.trainer.node import Node
from services.trainer.party import Party
from services.trainer.wire import Run
from shared.bus.memory import MemoryBus
from shared.bus.protocol import Consumer
from shared.bus.wire import decode
from shared.config import StageConfig, TrainingConfig
from shared.errors import ConfigurationError
from shared.events import (
    ChunkPlan,
    ChunkStarted,
    JoinChunk,
    NodeJoined,
    NodeLost,
    RunFinished,
    RunPaused,
    RunSpec,
    RunStarted,
    Schedule,
    subject,
)
from shared.service import Jobs
from shared.settings import Settings

RUN = "20260101_000000"
GLOO = (
    "RuntimeError: [third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.1]:9"
)
STORE = "torch.distributed.DistNetworkError: The client socket has timed out after 600000ms"
NCCL = "torch.distributed.DistBackendError: NCCL error: remote process exited or there was a network error"
AGENT = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n  exitcode  : 1 (pid: 7)"


def plan(nnodes: int = 3, **changes: Any) -> ChunkPlan:
    hosts = {"nnodes": nnodes, "rdzv_endpoint": "127.0.0.1:29400", "nproc_per_node": 2}
    parameters = StageConfig.model_validate(hosts | changes)
    return ChunkPlan(
        stage="dynamics",
        attempt=2,
        start_step=0,
        target_step=9,
        schedule=Schedule(peak=1e-3, start_step=0, end_step=9),
        parameters=parameters.model_dump(mode="json"),
    )


def about(node_rank: int, launch: int = 1) -> dict[str, Any]:
    return {
        "run_id": RUN,
        "stage": "dynamics",
        "attempt": 2,
        "launch": launch,
        "node_rank": node_rank,
        "host": f"host{node_rank}",
        "launcher_pid": 7,
    }


def joined(node_rank: int, launch: int = 1) -> NodeJoined:
    return NodeJoined(**about(node_rank, launch))


def lost(node_rank: int, how: Death, words: str = "") -> NodeLost:
    return NodeLost(**about(node_rank), exit_code=1, death=how, stderr_tail=words)


# --- deaths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [GLOO, f"[rank1]: {GLOO}", STORE, NCCL, f"Traceback:\n{GLOO}\n{AGENT}"])
def test_a_rank_that_only_lost_another_hosts_is_not_at_fault(words: str) -> None:
    assert death(1, words, several_hosts=True) == "peer"
    assert death(1, words) == "failed", "on one host there is nobody else to blame"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (f"{GLOO}\nRuntimeError: shapes do not match\n{AGENT}", "failed"),
        (f"worldloop: nowhere.h5: no such dataset\n{GLOO}", "failed"),
        (f"torch.OutOfMemoryError: no\n{GLOO}", "oom"),
        (f"{GLOO}\n  exitcode  : -9 (pid: 7)", "killed"),
        ("", "failed"),
    ],
)
def test_what_a_rank_says_of_itself_comes_first(words: str, expected: Death) -> None:
    assert death(1, words, several_hosts=True) == expected


@pytest.mark.parametrize(
    ("deaths", "expected"),
    [
        (["peer"], "killed"),
        (["peer", "peer"], "killed"),
        (["peer", "killed"], "killed"),
        (["peer", "failed", "killed"], "failed"),
        (["failed", "oom", "peer"], "oom"),
        (["killed"], "killed"),
    ],
)
def test_the_deaths_of_all_hosts_have_one_meaning(deaths: list[Death], expected: Death) -> None:
    assert together(deaths) == expected


# --- launching --------------------------------------------------------------------------------------------


def test_each_host_starts_its_own_agent_and_node_0_holds_the_first_ranks() -> None:
    meeting = Meeting(3, 1, "node0:29400", "run-dynamics-2-1", "10.0.0.2")
    words = command("python", 2, meeting)
    assert {"--nnodes=3", "--node-rank=1", "--nproc_per_node=2", "--rdzv-endpoint=node0:29400"} <= {*words}
    assert "--standalone" not in words
    assert LAUNCHER in command("python", 1, meeting), "one rank here, but not alone"
    config = StageConfig.model_validate(plan().parameters)
    assert (local_ranks(config), world_size(config)) == (2, 6)
    assert config.effective_batch == 8 * 6


async def test_ranks_talk_over_the_interface_that_leads_to_the_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in INTERFACES:
        monkeypatch.delenv(name, raising=False)
    run = Run(run_id=RUN, run_name="x", bundle="/x", plan=plan(), launch=4, resume_from=None, resume_step=0)
    config = StageConfig.model_validate(run.plan.parameters)
    meeting = await meeting_of(run, config, 1)
    assert meeting is not None
    assert (meeting.address, meeting.name) == ("127.0.0.1", f"{RUN}-dynamics-2-4")
    assert interfaces(meeting) == dict.fromkeys(INTERFACES, "lo")
    monkeypatch.setenv(INTERFACES[0], "eth9")
    assert interfaces(meeting)[INTERFACES[0]] == "eth9", "the operator's word"
    assert await meeting_of(run, config.model_copy(update={"nnodes": 1}), 0) is None
    with pytest.raises(ConfigurationError, match=r"rdzv_endpoint.*node0\.invalid"):
        await meeting_of(run, config.model_copy(update={"rdzv_endpoint": "node0.invalid:29400"}), 1)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"nnodes": 2}, "nnodes 2 needs rdzv_endpoint"),
        ({"nnodes": 2, "rdzv_endpoint": "node0"}, "rdzv_endpoint"),
        (
            {"nnodes": 2, "rdzv_endpoint": "a:1", "distributed": {"use_ddp": False}},
            r"needs distributed\.use_ddp",
        ),
        ({"nnodes": 0}, "nnodes"),
    ],
)
def test_hosts_that_cannot_meet_are_an_error_before_anything_starts(
    given: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        TrainingConfig.model_validate(given)


# --- calling ----------------------------------------------------------------------------------------------


async def test_a_call_to_join_reaches_the_host_it_is_for_and_no_other() -> None:
    call = JoinChunk(run_id=RUN, plan=plan(), launch=1, node_rank=2)
    assert subject(call) == f"worldloop.{RUN}.command.trainer.join.2"
    assert decode(subject(call), call.model_dump_json().encode()) == call
    bus = MemoryBus("trainer")
    party = Party(bus)
    party.begin(RUN, plan(), 1)
    await party.call()
    for rank in (1, 2):
        async for delivery in bus.subscribe(Consumer("trainer", "command", node_rank=rank)):
            assert delivery.message() == call.model_copy(update={"node_rank": rank})
            break
    assert not bus.broker.queue(Consumer("trainer", "command")), "node 0's own commands are others"
    assert Consumer("trainer", "command").subjects == ["worldloop.*.command.trainer.*"]
    assert Consumer("trainer", "command", node_rank=2).subjects == ["worldloop.*.command.trainer.*.2"]


async def test_the_party_is_complete_when_all_hosts_of_this_launch_have_joined() -> None:
    party = Party(MemoryBus("trainer"))
    assert party.complete, "a plan for one host"
    party.begin(RUN, plan(), 2)
    gathering = asyncio.create_task(party.gathered(lambda: False))
    assert not party.heard(joined(1, launch=1)), "of a launch that is over"
    assert party.heard(joined(2, launch=2))
    await asyncio.sleep(0)
    assert not gathering.done()
    assert party.heard(joined(1, launch=2))
    assert await gathering


async def test_nobody_waits_for_a_party_that_has_lost_a_host_or_is_given_up() -> None:
    party = Party(MemoryBus("trainer"))
    party.begin(RUN, plan(), 1)
    party.heard(joined(1))
    party.heard(lost(2, "failed"))
    assert not await party.gathered(lambda: False)
    party.begin(RUN, plan(), 1)
    assert not await party.gathered(lambda: True)


async def test_the_host_that_knows_why_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    party = Party(MemoryBus("trainer"))
    party.begin(RUN, plan(), 1)
    judging = asyncio.create_task(party.verdict("peer", GLOO))
    await asyncio.sleep(0)
    party.heard(lost(1, "peer", GLOO))
    await asyncio.sleep(0)
    assert not judging.done()
    party.heard(lost(2, "oom", "out of memory here"))
    assert await judging == ("oom", "On node 2 (host2):\nout of memory here")
    assert await party.verdict("failed", "here, too") == ("oom", "On node 2 (host2):\nout of memory here")
    monkeypatch.setattr(parties, "WORD_SEC", 0.0)
    party.begin(RUN, plan(), 1)
    assert await party.verdict("peer", GLOO) == ("killed", GLOO), "nobody says anything"


# --- called -----------------------------------------------------------------------------------------------


class Part:
    """In place of a host's crew: counts what it is asked for."""

    def __init__(self) -> None:
        self.group, self.started, self.ended = None, 0, 0

    async def ready_for(self, *_: Any) -> Any:
        self.started += 1
        raise OSError("no room")

    async def end(self, exit_grace_sec: float | None = None) -> None:
        self.ended += exit_grace_sec is None


def started(launch: int) -> ChunkStarted:
    where = {"launcher_pid": 7, "host": "host0", "device": "cpu", "world_size": 6}
    return ChunkStarted.model_validate(
        {"run_id": RUN, "stage": "dynamics", "attempt": 2, "plan": plan(), "launch": launch, **where}
    )


@pytest.fixture
async def node(tmp_path: Path) -> Node:
    """The trainer of host 1, in a run that was paused once."""
    bus = MemoryBus("trainer")
    (tmp_path / RUN).mkdir()
    spec = RunSpec(
        bundle=str(tmp_path / RUN), run_name="2026_01_01_00_00_00_pong", profile="test",
        configuration={}, policy={}, origins={}, stages=["dynamics"],
    )  # fmt: skip
    paused = RunPaused(run_id=RUN, by="operator", reason="lunch")
    for event in (RunStarted(run_id=RUN, spec=spec), paused, started(1)):
        await bus.publish(event)
    node = Node(bus, Settings(state_dir=tmp_path / "state", node_rank=1), Jobs(bus))
    node._crew = cast("Any", Part())
    return node


async def test_a_host_does_not_join_a_launch_that_is_over(node: Node) -> None:
    first, second = (JoinChunk(run_id=RUN, plan=plan(), launch=launch, node_rank=1) for launch in (1, 2))
    assert isinstance(await node.join(first), NodeLost), "it has no room"
    await node._bus.publish(started(2))
    assert await node.join(first) is None
    assert isinstance(await node.join(second), NodeLost)
    await node._bus.publish(RunFinished(run_id=RUN, status="stopped", degraded=False, reason="enough"))
    assert await node.join(second) is None
    assert cast("Part", node._crew).started == 2


async def test_a_pause_that_is_heard_late_does_not_end_the_launch_after_it(node: Node) -> None:
    node._joined = JoinChunk(run_id=RUN, plan=plan(), launch=1, node_rank=1)
    await node.leave(RUN)
    assert cast("Part", node._crew).ended == 0
    await node._bus.publish(RunPaused(run_id=RUN, by="operator", reason="dinner", ordinal=2))
    await node.leave(RUN)
    assert cast("Part", node._crew).ended == 1
