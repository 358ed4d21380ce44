"""The runtime: what becomes of a message, of jobs, of runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from shared import service
from shared.bus.memory import Broker, MemoryBus
from shared.bus.protocol import Consumer, Recorded
from shared.bus.wire import Envelope
from shared.errors import Reject, Retry
from shared.events import (
    NO_RUN,
    ChunkCommand,
    ChunkEvent,
    ChunkPlan,
    Heartbeat,
    Message,
    RunPaused,
    RunQueued,
    RunResumed,
    RunSpec,
    RunStarted,
    Schedule,
    StartChunk,
    StopChunk,
)
from shared.service import App, Jobs, Runs, serve
from shared.settings import Settings

RUN = "20260101_000000"
STOP = StopChunk(run_id=RUN, stage="dynamics", attempt=1)
ANSWER = RunPaused(run_id=RUN, by="operator", reason="asked")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "FIRST_BACKOFF_SEC", 0.001)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path, heartbeat_sec=0.01)


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus("trainer")


@contextlib.asynccontextmanager
async def served(app: App[Any], bus: MemoryBus, settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(serve(app, bus, settings))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.005)


async def settled(bus: MemoryBus) -> None:
    await until(lambda: not bus.broker.queue(Consumer("trainer", "command")))


def start(attempt: int = 1) -> StartChunk:
    plan = ChunkPlan(
        stage="dynamics",
        attempt=attempt,
        start_step=0,
        target_step=1,
        schedule=Schedule(peak=1, start_step=0, end_step=1),
        parameters={},
    )
    return StartChunk(run_id=RUN, plan=plan)


def spec(bundle: Path) -> RunSpec:
    return RunSpec(
        bundle=str(bundle),
        run_name="2026_01_01_00_00_00_pong",
        profile="demo",
        configuration={},
        policy={},
        origins={},
        stages=[],
    )


async def test_a_handlers_answers_are_published_before_the_message_is_acked(
    bus: MemoryBus, settings: Settings
) -> None:
    async def on_stop(message: StopChunk, deps: str) -> list[Message]:
        assert (message, deps) == (STOP, "deps")
        return [ANSWER]

    await bus.publish(STOP)
    async with served(App("trainer", "deps", {StopChunk: on_stop}), bus, settings):
        await settled(bus)
    assert [record.message for record in await bus.events()] == [ANSWER]
    assert await bus.dead_letters() == []


async def test_a_handler_of_a_base_class_gets_all_its_messages(bus: MemoryBus, settings: Settings) -> None:
    got: list[Message] = []

    async def on_chunk(message: ChunkCommand, deps: None) -> list[Message]:
        got.append(message)
        return []

    await bus.publish(start())
    async with served(App("trainer", None, {ChunkCommand: on_chunk}), bus, settings):
        await settled(bus)
    assert got == [start()]


async def test_events_are_filtered_by_the_names_that_have_handlers(
    bus: MemoryBus, settings: Settings
) -> None:
    async def handle(message: Message, deps: None) -> list[Message]:
        return []

    app = App("monitor", None, {RunPaused: handle, ChunkEvent: handle})
    async with served(app, bus, settings):
        await until(lambda: bool(bus.broker.wanted))
    names = (
        "artifact_evidence",
        "chunk_done",
        "chunk_started",
        "evidence_timed_out",
        "gpu_evidence",
        "node_joined",
        "node_lost",
        "run_paused",
    )
    assert bus.broker.wanted == {("monitor", "monitor-events"): names}


async def test_retry_brings_the_message_again_after_its_delay(bus: MemoryBus, settings: Settings) -> None:
    calls = 0

    async def on_stop(message: StopChunk, deps: None) -> list[Message]:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise Retry("not yet", delay_sec=0.001)
        return [ANSWER]

    await bus.publish(STOP)
    async with served(App("trainer", None, {StopChunk: on_stop}), bus, settings):
        await settled(bus)
    assert calls == 3
    assert len(await bus.events()) == 1


async def test_reject_is_a_dead_letter_with_the_reason(bus: MemoryBus, settings: Settings) -> None:
    async def on_stop(message: StopChunk, deps: None) -> list[Message]:
        raise Reject("nothing to stop")

    await bus.publish(STOP)
    async with served(App("trainer", None, {StopChunk: on_stop}), bus, settings):
        await settled(bus)
    (letter,) = await bus.dead_letters()
    assert (letter.service, letter.name, letter.reason) == ("trainer", "trainer.stop", "nothing to stop")
    assert letter.deliveries == 1


async def test_a_message_that_cannot_be_read_is_a_dead_letter_and_stops_nobody(
    bus: MemoryBus, settings: Settings
) -> None:
    async def on_stop(message: StopChunk, deps: None) -> list[Message]:
        return [ANSWER]

    bus.broker.put(Envelope(f"worldloop.{RUN}.command.trainer.stop", b"{}", {"ce-id": "x"}))
    await bus.publish(STOP)
    async with served(App("trainer", None, {StopChunk: on_stop}), bus, settings):
        await settled(bus)
    (letter,) = await bus.dead_letters()
    assert "stage: Field required" in letter.reason
    assert len(await bus.events()) == 1


async def test_a_command_nobody_handles_is_a_dead_letter(bus: MemoryBus, settings: Settings) -> None:
    async def on_stop(message: StopChunk, deps: None) -> list[Message]:
        return []

    await bus.publish(start())
    async with served(App("trainer", None, {StopChunk: on_stop}), bus, settings):
        await settled(bus)
    (letter,) = await bus.dead_letters()
    assert letter.reason == "trainer has no handler for start"


async def test_a_handler_that_fails_five_times_has_a_dead_letter_with_its_error(
    bus: MemoryBus, settings: Settings
) -> None:
    calls = 0

    async def on_stop(message: StopChunk, deps: None) -> list[Message]:
        nonlocal calls
        calls += 1
        raise ZeroDivisionError("again")

    await bus.publish(STOP)
    async with served(App("trainer", None, {StopChunk: on_stop}), bus, settings):
        await settled(bus)
    (letter,) = await bus.dead_letters()
    assert letter.reason == "given up after 5 deliveries: ZeroDivisionError: again"
    assert calls == letter.deliveries == 5


async def test_a_message_that_ends_its_handlers_process_is_buried_before_it_is_handled_again(
    bus: MemoryBus, settings: Settings
) -> None:
    async def on_stop(message: StopChunk, deps: None) -> list[Message]:
        raise AssertionError("it must not be handled")

    await bus.publish(STOP)
    bus.broker.queue(Consumer("trainer", "command"))[0].deliveries = 5
    async with served(App("trainer", None, {StopChunk: on_stop}), bus, settings):
        await settled(bus)
    (letter,) = await bus.dead_letters()
    assert "never settled" in letter.reason


async def test_a_long_handler_keeps_its_message(
    bus: MemoryBus, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "ACK_WAIT_SEC", 0.3)
    going_on = asyncio.Event()

    async def on_stop(message: StopChunk, deps: None) -> list[Message]:
        await going_on.wait()
        return []

    await bus.publish(STOP)
    async with served(App("trainer", None, {StopChunk: on_stop}), bus, settings):
        (item,) = bus.broker.queue(Consumer("trainer", "command"))
        await until(lambda: item.deliveries == 1)
        taken = item.due
        await until(lambda: item.due > taken + 0.2)
        going_on.set()
        await settled(bus)


async def test_what_a_service_was_handling_when_it_ended_comes_again_at_once(settings: Settings) -> None:
    broker = Broker()
    bus = MemoryBus("trainer", broker=broker)
    entered = asyncio.Event()

    async def hang(message: StopChunk, deps: None) -> list[Message]:
        entered.set()
        await asyncio.Event().wait()
        return []

    async def answer(message: StopChunk, deps: None) -> list[Message]:
        return [ANSWER]

    await bus.publish(STOP)
    async with served(App("trainer", None, {StopChunk: hang}), bus, settings):
        await entered.wait()
    (item,) = broker.queue(Consumer("trainer", "command"))
    assert item.due <= asyncio.get_running_loop().time()
    async with served(App("trainer", None, {StopChunk: answer}), bus, settings):
        await settled(bus)


async def heartbeats(bus: MemoryBus, count: int) -> list[Heartbeat]:
    found: list[Heartbeat] = []
    async with contextlib.aclosing(bus.follow(("telemetry",))) as telemetry:
        async for record in telemetry:
            assert isinstance(record.message, Heartbeat)
            found.append(record.message)
            if len(found) == count:
                break
    return found


async def test_heartbeats_say_what_handlers_jobs_and_the_service_work_on(
    bus: MemoryBus, settings: Settings
) -> None:
    jobs, entered, other = Jobs(bus), asyncio.Event(), "20260101_000000_2/video_tokenizer/1/0/start"

    async def job() -> list[Message]:
        await asyncio.Event().wait()
        return []

    async def on_chunk(message: ChunkCommand, deps: None) -> list[Message]:
        jobs.start(message.id, job())
        return []

    async def on_stop(message: StopChunk, deps: None) -> list[Message]:
        entered.set()
        await asyncio.Event().wait()
        return []

    app = App("trainer", None, {ChunkCommand: on_chunk, StopChunk: on_stop}, (), lambda: [other], jobs)
    async with served(app, bus, settings):
        await bus.publish(start())
        await bus.publish(STOP)
        await entered.wait()
        beats = await heartbeats(bus, 4)
    assert {beat.run_id: beat.working_on for beat in beats} == {
        RUN: [STOP.id, start().id],
        "20260101_000000_2": [other],
    }


async def test_an_event_handled_beside_a_command_leaves_it_in_the_heartbeats(
    bus: MemoryBus, settings: Settings
) -> None:
    async def on_stop(message: StopChunk, deps: None) -> list[Message]:
        await asyncio.Event().wait()
        return []

    async def on_pause(message: RunPaused, deps: None) -> list[Message]:
        return []

    async with served(App("trainer", None, {StopChunk: on_stop, RunPaused: on_pause}), bus, settings):
        await bus.publish(STOP)
        await until(lambda: bool(bus.broker.queue(Consumer("trainer", "command"))))
        assert (await heartbeats(bus, 3))[-1].working_on == [STOP.id]
        await bus.publish(ANSWER)
        await until(lambda: not bus.broker.queue(Consumer("trainer", "event")))
        assert (await heartbeats(bus, 3))[-1].working_on == [STOP.id]


async def test_an_idle_service_says_so(bus: MemoryBus, settings: Settings) -> None:
    async with served(App("trainer", None, {}), bus, settings):
        (beat,) = await heartbeats(bus, 1)
    assert (beat.run_id, beat.working_on) == (NO_RUN, [])


class LostBus(MemoryBus):
    """One that cannot be reached."""

    @property
    def connected(self) -> bool:
        return False


@pytest.mark.parametrize("kind", [MemoryBus, LostBus])
async def test_a_service_touches_its_file_for_health_checks_while_it_is_connected(
    kind: type[MemoryBus], settings: Settings
) -> None:
    bus, alive = kind("trainer"), settings.state_dir / "trainer.alive"
    async with served(App("trainer", None, {}), bus, settings):
        await heartbeats(bus, 2)  # the file is touched after the first and before the second
        assert alive.exists() == bus.connected


async def test_a_failing_background_task_ends_the_service(bus: MemoryBus, settings: Settings) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await serve(App("trainer", None, {}, [fail]), bus, settings)
    assert caught.group_contains(ZeroDivisionError)


async def test_of_what_ends_a_service_people_get_a_line_each_and_a_traceback_only_of_mistakes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> App[Any]:
        inner = ExceptionGroup("", [Reject("the trainer on host (pid 7) has taken over")])
        raise ExceptionGroup("", [inner, ZeroDivisionError()])

    monkeypatch.setattr(service, "_on_signals", lambda _: None)
    monkeypatch.setattr(service, "_connect_and_serve", fail)
    with structlog.testing.capture_logs() as told:
        assert await service._main("trainer", fail, settings) == 1
    expected, mistake = told
    assert (expected["event"], expected["problem"]) == (
        "cannot go on",
        "the trainer on host (pid 7) has taken over",
    )
    assert "exc_info" not in expected
    assert isinstance(mistake["exc_info"], ZeroDivisionError)


async def test_what_a_job_returns_is_published(bus: MemoryBus) -> None:
    jobs = Jobs(bus)

    async def job() -> list[Message]:
        await asyncio.sleep(0)
        return [ANSWER]

    assert jobs.start("a", job())
    assert jobs.running == ["a"]
    await until(lambda: not jobs.running)
    assert [record.message for record in await bus.events()] == [ANSWER]


async def test_a_job_that_runs_is_not_started_again(bus: MemoryBus) -> None:
    jobs = Jobs(bus)

    async def job() -> list[Message]:
        await asyncio.Event().wait()
        return []

    assert jobs.start("a", job())
    assert not jobs.start("a", job())
    await jobs.cancel("a")
    assert jobs.running == []


async def test_a_job_that_fails_ends_the_service_and_the_other_jobs(
    bus: MemoryBus, settings: Settings
) -> None:
    jobs, ended = Jobs(bus), asyncio.Event()

    async def long() -> list[Message]:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return []

    async def fail() -> list[Message]:
        await asyncio.sleep(0.01)
        raise ZeroDivisionError

    jobs.start("long", long())
    jobs.start("fail", fail())
    with pytest.raises(ExceptionGroup) as caught:
        await serve(App("trainer", None, {}, jobs=jobs), bus, settings)
    assert caught.group_contains(ZeroDivisionError)
    assert ended.is_set()


async def test_runs_know_queued_and_started_runs_and_their_bundles(
    bus: MemoryBus, settings: Settings, tmp_path: Path
) -> None:
    runs, queued = Runs(bus, settings), "20260101_000000_2"
    await bus.publish(RunStarted(run_id=RUN, spec=spec(tmp_path / "there")))
    await bus.publish(RunQueued(run_id=queued, spec=spec(tmp_path / "behind"), behind=[RUN]))
    assert (await runs.bundle(RUN)).root == tmp_path / "there"
    assert (await runs.bundle(queued)).root == tmp_path / "behind"
    elsewhere = Runs(bus, settings.model_copy(update={"output_root": tmp_path / "mine"}))
    assert (await elsewhere.bundle(RUN)).root == tmp_path / "mine" / RUN


async def test_a_run_nobody_has_heard_of_may_be_asked_for_later(bus: MemoryBus, settings: Settings) -> None:
    with pytest.raises(Retry, match=RUN):
        await Runs(bus, settings).spec(RUN)


async def test_a_spec_is_read_once(settings: Settings, tmp_path: Path) -> None:
    class Counting(MemoryBus):
        asked = 0

        async def last_event(self, run_id: str, name: str) -> Recorded | None:
            self.asked += 1
            return await super().last_event(run_id, name)

    bus = Counting()
    await bus.publish(RunStarted(run_id=RUN, spec=spec(tmp_path)))
    runs = Runs(bus, settings)
    assert await runs.spec(RUN) == await runs.spec(RUN)
    assert bus.asked == 1


async def test_a_durable_consumer_goes_on_where_the_last_process_was(
    bus: MemoryBus, settings: Settings
) -> None:
    got: list[Message] = []

    async def handle(message: Message, deps: None) -> list[Message]:
        got.append(message)
        return []

    app = App("monitor", None, {RunPaused: handle, RunResumed: handle})
    await bus.publish(ANSWER)
    async with served(app, bus, settings):
        await until(lambda: len(got) == 1)
        await until(lambda: not bus.broker.queue(Consumer("monitor", "event")))
    resumed = RunResumed(run_id=RUN, by="operator", reason="fed")
    await bus.publish(resumed)
    async with served(app, bus, settings):
        await until(lambda: len(got) == 2)
    assert got == [ANSWER, resumed]


async def test_of_many_runs_the_one_longest_unused_is_let_go_and_read_again(
    bus: MemoryBus, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_RUNS", 2)
    runs, ids = Runs(bus, settings), [RUN, f"{RUN}_2", f"{RUN}_3"]
    for run_id in ids:
        await bus.publish(RunStarted(run_id=run_id, spec=spec(tmp_path)))
    first, second = await runs.spec(ids[0]), await runs.spec(ids[1])
    assert await runs.spec(ids[0]) is first
    await runs.spec(ids[2])
    assert await runs.spec(ids[0]) is first
    again = await runs.spec(ids[1])
    assert again == second
    assert again is not second
