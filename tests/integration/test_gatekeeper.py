"""The gatekeeper's shell on the in-memory bus, with the other services played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import UTC, datetime
from math import ceil
from typing import Any

import pytest

from services.gatekeeper import keeper
from services.gatekeeper.core.pipeline import decide
from services.gatekeeper.core.state import RunState
from services.gatekeeper.handlers import HANDLERS
from services.gatekeeper.keeper import Keeper
from shared.bus.memory import Broker, MemoryBus
from shared.bus.protocol import Recorded
from shared.bus.wire import Envelope
from shared.events import (
    ChunkCommand,
    ChunkPlan,
    Command,
    CommandRejected,
    CommandTimedOut,
    EvaluateInference,
    Event,
    EvidenceTimedOut,
    GateDecided,
    Heartbeat,
    OperatorCommand,
    OperatorRequested,
    PauseRun,
    ReportWritten,
    ResumeRun,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunSpec,
    StartRun,
    StopChunk,
    StopRun,
    WriteReports,
)
from shared.service import App, serve
from shared.settings import Settings
from tests.unit.gatekeeper.story import (
    HEALTHY,
    Outcome,
    artifact_evidence,
    chunk_done,
    chunk_started,
    gpu_evidence,
    inference_done,
    only,
    run_spec,
)

FIRST, SECOND = "20261121_120000", "20261121_130000"
SHORT = only("video_tokenizer")


class Bus(MemoryBus):
    """Can be away."""

    away = False

    @property
    def connected(self) -> bool:
        return not self.away


class World:
    """A broker, gatekeepers on it, and a player who answers commands as if he were the other services."""

    def __init__(self) -> None:
        self.broker = Broker()
        self.bus = MemoryBus("cli", broker=self.broker)
        self.now = 0.0
        self.answering = True
        self.silent_monitor = False
        self.newest: Bus
        self.keeper: Keeper
        self.commands: list[Command] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._requests = itertools.count()

    def gatekeeper(self) -> asyncio.Task[None]:
        """One gatekeeper process."""
        bus = self.newest = Bus("gatekeeper", broker=self.broker)
        keeper = self.keeper = Keeper(bus, lambda: self.now, tick_sec=0.01)
        app = App(
            service="gatekeeper",
            deps=keeper,
            handlers=HANDLERS,
            background=[keeper.follow, keeper.listen, keeper.work],
        )
        task = asyncio.create_task(serve(app, bus, Settings(heartbeat_sec=3600)))
        self._tasks.append(task)
        return task

    def others(self) -> None:
        self._tasks.append(asyncio.create_task(self._answer()))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for ended in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended

    async def ask(self, kind: type[OperatorCommand], run_id: str = FIRST, **fields: object) -> None:
        request = {"run_id": run_id, "request_id": f"r{next(self._requests)}"}
        await self.bus.publish(kind.model_validate({**request, **fields}))

    async def start(self, run_id: str = FIRST, spec: RunSpec = SHORT) -> None:
        await self.ask(StartRun, run_id, spec=spec)

    async def events(self, run_id: str = FIRST) -> list[Event]:
        return [each.message for each in await self.bus.events(run_id) if isinstance(each.message, Event)]

    async def stopped(self) -> ChunkPlan:
        """Start the first run and stop it in its first chunk, whose plan it was; nobody answers by itself."""
        self.answering = False
        self.gatekeeper()
        await self.start()
        await self.sent(ChunkCommand)
        await self.ask(StopRun)
        await self.sent(StopChunk)
        command = self.commands[0]
        assert isinstance(command, ChunkCommand)
        await self.bus.publish(chunk_done(command.plan, Outcome(reason="stopped"), 5, {5: True}))
        await self.sent(WriteReports)
        await self._play(self.commands[-1])
        await self.until(RunFinished)
        return command.plan

    async def until(self, kind: type[Event], run_id: str = FIRST, *, count: int = 1) -> list[Event]:
        """Wait until the run has so many events of a kind."""
        while True:
            events = await self.events(run_id)
            if sum(isinstance(event, kind) for event in events) >= count:
                return events
            await asyncio.sleep(0.002)

    async def sent(self, kind: type[Command], *, count: int = 1) -> None:
        """Wait until so many commands of a kind were sent to the other services."""
        while True:
            if sum(isinstance(command, kind) for command in self.commands) >= count:
                return
            await asyncio.sleep(0.002)

    async def forgets(self) -> None:
        """Wait until the gatekeeper has nothing in mind."""
        while True:
            if not self.keeper.runs:
                return
            await self.pass_time(0.01)

    async def pass_time(self, seconds: float) -> None:
        """Time goes on in small steps, so that every tick sees some of it."""
        steps = max(20, ceil(seconds))
        for _ in range(steps):
            self.now += seconds / steps
            await asyncio.sleep(0.015)

    async def _answer(self) -> None:
        async for recorded in self.bus.follow(("command",)):
            command = recorded.message
            if isinstance(command, Command) and command.service != "gatekeeper":
                self.commands.append(command)
                if self.answering:
                    await self._play(command)

    async def _play(self, command: Command) -> None:
        if isinstance(command, ChunkCommand):
            plan, run_id = command.plan, command.run_id
            await self.bus.publish(chunk_started(plan, run_id=run_id))
            steps = {step: True for step in (plan.start_step, plan.target_step) if step > 0}
            await self.bus.publish(chunk_done(plan, HEALTHY, plan.target_step, steps, run_id))
            if not self.silent_monitor:
                await self.bus.publish(gpu_evidence(plan, run_id=run_id))
                await self.bus.publish(artifact_evidence(plan, run_id=run_id))
        elif isinstance(command, EvaluateInference):
            await self.bus.publish(inference_done(command, {}))
        elif isinstance(command, WriteReports):
            for kind in command.kinds:
                path = f"docs/action/{kind}-{command.ordinal}.md"
                await self.bus.publish(
                    ReportWritten(
                        run_id=command.run_id, report=kind, path=path, ok=True, ordinal=command.ordinal
                    )
                )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    world.others()
    try:
        yield world
    finally:
        await world.close()


def gates(events: list[Event]) -> list[GateDecided]:
    return [event for event in events if isinstance(event, GateDecided)]


def finished(events: list[Event]) -> RunFinished:
    return next(event for event in reversed(events) if isinstance(event, RunFinished))


async def test_a_whole_run_goes_from_start_to_passed(world: World) -> None:
    world.gatekeeper()
    await world.start(spec=run_spec())
    events = await world.until(RunFinished)
    assert finished(events).status == "passed"
    assert len(gates(events)) == 7


async def test_two_gatekeepers_never_decide_a_gate_twice(world: World) -> None:
    world.gatekeeper()
    world.gatekeeper()
    await world.start(spec=run_spec())
    events = await world.until(RunFinished)
    decided = Counter(event.id for event in events)
    assert max(decided.values()) == 1
    assert len(gates(events)) == 7
    assert max(Counter(command.id for command in world.commands).values()) == 1


async def test_a_gatekeeper_that_dies_anywhere_is_followed_by_one_that_goes_on(world: World) -> None:
    await world.start(spec=run_spec())
    for count in range(1, 60):  # killed again and again, each time a little later
        task = world.gatekeeper()
        await asyncio.sleep(0.0005 * count)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        if any(isinstance(event, RunFinished) for event in await world.events()):
            break
    world.gatekeeper()
    events = await world.until(RunFinished)
    assert finished(events).status == "passed"
    assert [(gate.attempt, gate.retries_used) for gate in gates(events)] == [(1, 0), (2, 0)] * 3 + [(1, 0)]


async def test_commands_are_published_again_after_a_crash_between_decision_and_command(world: World) -> None:
    world.answering = False
    first = world.gatekeeper()
    await world.start()
    await world.sent(Command)
    first.cancel()
    forgotten = {f"forgotten {ident}": place for ident, place in world.broker.sequences.items()}
    world.broker.sequences = forgotten  # the window in which the server remembers ids is over
    world.gatekeeper()
    await world.sent(Command, count=2)
    assert world.commands[0] == world.commands[1]


async def test_the_second_run_waits_for_the_first(world: World) -> None:
    world.answering = False
    world.gatekeeper()
    await world.start(FIRST)
    await world.start(SECOND)
    events = await world.until(Event, SECOND, count=2)
    assert [event.name for event in events] == ["operator_requested", "run_queued"]
    await world.sent(ChunkCommand)
    assert {command.run_id for command in world.commands} == {FIRST}
    world.answering = True
    await world._play(world.commands[0])
    assert finished(await world.until(RunFinished, SECOND)).status == "stage_completed"
    first_end = (await world.bus.events(FIRST))[-1].sequence
    begun = await world.bus.last_event(SECOND, "run_started")
    assert begun is not None
    assert begun.sequence > first_end


async def test_a_resumed_run_goes_behind_those_that_are_there(world: World) -> None:
    await world.stopped()
    await world.start(SECOND)
    await world.sent(ChunkCommand, count=2)
    await world.ask(ResumeRun)
    await world.until(OperatorRequested, count=3)
    await asyncio.sleep(0.05)
    assert world.commands[-1].run_id == SECOND
    assert not [event for event in await world.events() if isinstance(event, RunResumed)]
    world.answering = True
    await world._play(world.commands[-1])
    assert finished(await world.until(RunFinished, count=2)).status == "stage_completed"


async def test_a_run_that_ended_long_ago_is_let_go_and_comes_back_when_it_is_resumed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "MOST_ENDED", 0)
    plan = await world.stopped()
    await world.forgets()
    await world.bus.publish(gpu_evidence(plan))  # late: nothing hangs on it
    await world.ask(PauseRun)
    refused = (await world.until(CommandRejected))[-1]
    assert isinstance(refused, CommandRejected)
    assert "has ended as stopped" in refused.reason
    await world.forgets()
    await world.bus.publish(  # noted by another gatekeeper
        OperatorRequested(run_id=FIRST, request="resume_run", request_id="other")
    )
    await world.sent(ChunkCommand, count=2)
    world.answering = True
    await world._play(world.commands[-1])
    assert finished(await world.until(RunFinished, count=2)).status == "stage_completed"
    starts = [each.plan.start_step for each in world.commands if isinstance(each, ChunkCommand)]
    assert starts[:2] == [0, 5]
    await world.forgets()
    world.gatekeeper()  # one that reads it all anew lets it go as well, and knows where it stands
    await world.ask(ResumeRun)
    events = await world.until(CommandRejected, count=2)
    assert "has ended as stage_completed" in next(
        each.reason for each in reversed(events) if isinstance(each, CommandRejected)
    )


async def test_a_run_is_not_let_go_while_its_operator_is_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "MOST_ENDED", 0)
    plan = await world.stopped()
    append = world.newest.append

    async def outpaced(event: Event, *, after: int) -> int:
        monkeypatch.undo()
        monkeypatch.setattr(keeper, "MOST_ENDED", 0)
        world.keeper._forget()
        await world.bus.publish(gpu_evidence(plan))  # something came first: the answer is thought over
        return await append(event, after=after)

    monkeypatch.setattr(world.newest, "append", outpaced)
    await world.ask(PauseRun)
    refused = (await world.until(CommandRejected))[-1]
    assert isinstance(refused, CommandRejected)
    assert "has ended as stopped" in refused.reason


async def test_pause_resume_and_stop_reach_the_log_before_they_are_acked(world: World) -> None:
    world.answering = False
    world.gatekeeper()
    await world.start()
    await world.sent(Command)
    await world.ask(PauseRun)
    await world.until(OperatorRequested, count=2)
    world.answering = True
    await world._play(world.commands[0])
    await world.until(RunPaused)
    await world.ask(ResumeRun)
    events = await world.until(RunFinished)
    assert [type(event) for event in events if isinstance(event, RunPaused | RunResumed)] == [
        RunPaused,
        RunResumed,
    ]
    await world.ask(StopRun)
    refused = (await world.until(CommandRejected))[-1]
    assert isinstance(refused, CommandRejected)
    assert "has ended as stage_completed" in refused.reason


async def test_an_hour_in_which_the_gatekeeper_was_stopped_is_no_waiting(world: World) -> None:
    world.silent_monitor = True
    world.gatekeeper()
    await world.start()
    await world.until(Event, count=5)
    await world.pass_time(5)
    world.now += 3600
    await world.pass_time(30)
    assert not [event for event in await world.events() if isinstance(event, EvidenceTimedOut)]


async def test_evidence_that_does_not_come_times_out_and_pauses(world: World) -> None:
    world.silent_monitor = True
    world.gatekeeper()
    await world.start()
    await world.until(Event, count=5)
    await world.pass_time(30)
    assert not [event for event in await world.events() if isinstance(event, EvidenceTimedOut)]
    await world.pass_time(40)
    await world.until(RunPaused)
    command = world.commands[0]
    assert isinstance(command, ChunkCommand)
    world.silent_monitor = False
    await world.bus.publish(gpu_evidence(command.plan))
    await world.bus.publish(artifact_evidence(command.plan))
    assert finished(await world.until(RunFinished)).status == "stage_completed"


async def test_a_command_that_nobody_takes_is_sent_again_and_a_heartbeat_holds_that_back(
    world: World,
) -> None:
    world.answering = False
    world.gatekeeper()
    await world.start()
    await world.sent(Command)
    beat = Heartbeat(run_id=FIRST, service="trainer", pid=1, host="box", working_on=[world.commands[0].id])
    for _ in range(4):
        await world.pass_time(60)
        await world.bus.publish(beat)
    assert not [event for event in await world.events() if isinstance(event, CommandTimedOut)]
    for count in range(1, 5):
        await world.pass_time(130)
        await world.until(CommandTimedOut, count=count)
    world.answering = True
    await world.sent(WriteReports)
    assert [command.retry for command in world.commands if isinstance(command, ChunkCommand)] == [0, 1, 2, 3]
    assert any(isinstance(command, StopChunk) for command in world.commands)


async def test_time_that_passes_while_the_bus_is_away_does_not_count(world: World) -> None:
    world.answering = False
    world.gatekeeper()
    await world.start()
    await world.sent(Command)
    world.newest.away = True
    await world.pass_time(500)
    assert not [event for event in await world.events() if isinstance(event, CommandTimedOut)]


def junk(subject: str, data: bytes) -> Envelope:
    return Envelope(
        subject, data, {"ce-id": f"junk-{subject}-{len(data)}", "ce-time": datetime.now(UTC).isoformat()}
    )


@pytest.mark.filterwarnings("default")
async def test_events_that_nobody_can_read_do_not_stop_it(world: World) -> None:
    for subject in (f"worldloop.{FIRST}.event.gate_decided", f"worldloop.{SECOND}.event.nonsense"):
        world.broker.put(junk(subject, b"{"))
    world.gatekeeper()
    await world.start()
    await world.until(GateDecided)
    world.broker.put(junk(f"worldloop.{FIRST}.event.chunk_done", b"not even json"))
    world.broker.put(junk(f"worldloop.{FIRST}.event.alert_raised", b"[]"))
    assert finished(await world.until(RunFinished)).status == "stage_completed"


async def test_a_log_that_ends_with_what_nobody_can_read_is_caught_up_with(world: World) -> None:
    first = world.gatekeeper()
    world.answering = False
    await world.start()
    await world.sent(Command)
    first.cancel()
    world.answering = True
    await world._play(world.commands[0])
    world.broker.put(junk(f"worldloop.{FIRST}.event.alert_raised", b"[]"))
    world.gatekeeper()
    await world.pass_time(5)
    assert finished(await world.until(RunFinished)).status == "stage_completed"


class Late(Bus):
    """The first times that the past is read, it is empty: another server of the cluster has more."""

    reads = 0

    async def past(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Recorded, None]:
        self.reads -= 1
        async for recorded in super().past(*args, **kwargs):
            if self.reads < 0:
                yield recorded


@pytest.mark.parametrize(("reads", "answer"), [(2, OperatorRequested), (3, CommandRejected)])
async def test_an_event_that_is_read_late_counts(
    world: World, monkeypatch: pytest.MonkeyPatch, reads: int, answer: type[Event]
) -> None:
    monkeypatch.setattr(keeper, "LATE_SEC", 0.0)
    bus = Late("gatekeeper", broker=world.broker)
    asked = {"spec": SHORT.model_dump(mode="json")}
    await bus.publish(OperatorRequested(run_id=FIRST, request="start_run", request_id="x", arguments=asked))
    bus.reads, behind = reads, Keeper(bus, lambda: 0.0)
    await behind.request(StopRun(run_id=FIRST, request_id="y"))
    assert isinstance((await world.events())[-1], answer)
    following = asyncio.create_task(behind.follow())
    while behind._followed < 2:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)
    following.cancel()
    assert behind.runs[FIRST].spec == SHORT


async def test_an_event_that_cannot_be_folded_leaves_the_other_runs_alone(world: World) -> None:
    broken = run_spec().model_dump(mode="json")
    broken["policy"] = {"gatekeeper": {"max_retries": -1}}
    world.gatekeeper()
    await world.bus.publish(
        OperatorRequested(run_id=SECOND, request="start_run", request_id="x", arguments={"spec": broken})
    )
    await world.start()
    assert finished(await world.until(RunFinished)).status == "stage_completed"


async def test_a_run_of_which_nothing_is_new_costs_no_thought(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.answering = False
    world.gatekeeper()
    for number in range(5):
        await world.start(f"20261121_12000{number}")
    await world.until(RunQueued, "20261121_120004")
    thought: list[str] = []

    def decided(state: RunState, ahead: Sequence[str] = ()) -> list[Event]:
        thought.append(state.run_id)
        return decide(state, ahead)

    monkeypatch.setattr(keeper, "decide", decided)
    await world.ask(PauseRun, "20261121_120003")
    await world.until(OperatorRequested, "20261121_120003", count=2)
    await world.ask(PauseRun, "20261121_120004")
    await world.until(OperatorRequested, "20261121_120004", count=2)
    await asyncio.sleep(0.05)
    assert set(thought) <= {"20261121_120003", "20261121_120004"}
    assert thought
