"""What every bus promises."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from shared.bus import jetstream
from shared.bus.protocol import Backlog, Bus, Consumer, DeadLetter, Delivery, Recorded
from shared.bus.wire import Envelope
from shared.errors import MessageError, SequenceConflict
from shared.events import Heartbeat, Message, RunPaused, RunResumed, StopChunk

Connect = Callable[..., Awaitable[Bus]]
PutRaw = Callable[[Envelope], Awaitable[None]]
T = TypeVar("T")

RUN, OTHER = "20260101_000000", "20260101_000000_2"
TRAINER = Consumer("trainer", "command")


def paused(ordinal: int, run_id: str = RUN) -> RunPaused:
    return RunPaused(run_id=run_id, by="operator", reason="lunch", ordinal=ordinal)


def stop(attempt: int, run_id: str = RUN) -> StopChunk:
    return StopChunk(run_id=run_id, stage="dynamics", attempt=attempt)


def heartbeat(run_id: str = RUN) -> Heartbeat:
    return Heartbeat(run_id=run_id, service="trainer", pid=1, host="here", working_on=[])


async def take(items: AsyncGenerator[T, None], count: int) -> list[T]:
    """The next items; a bus that has none fails the test's time limit."""
    return [await asyncio.wait_for(anext(items), 60) for _ in range(count)]


async def first(bus: Bus, consumer: Consumer = TRAINER) -> Delivery:
    async with contextlib.aclosing(bus.subscribe(consumer)) as deliveries:
        return (await take(deliveries, 1))[0]


async def nothing(bus: Bus, consumer: Consumer = TRAINER) -> bool:
    """Whether a marker sent now is the next the consumer gets."""
    marker = stop(999_999)
    await bus.publish(marker)
    return (await first(bus, consumer)).message() == marker


def messages(records: list[Recorded]) -> list[Message]:
    return [record.message for record in records]


# --- the log ----------------------------------------------------------------------------------------------


async def test_events_come_back_in_order_with_rising_sequences(bus: Bus) -> None:
    for ordinal in (1, 2, 3):
        await bus.publish(paused(ordinal))
    records = await bus.events()
    assert messages(records) == [paused(1), paused(2), paused(3)]
    assert [record.sequence for record in records] == sorted({record.sequence for record in records})
    assert [record.pending for record in records] == [2, 1, 0]


async def test_events_of_one_run_after_a_sequence(bus: Bus) -> None:
    for event in (paused(1), paused(1, OTHER), paused(2), paused(3)):
        await bus.publish(event)
    records = await bus.events(RUN)
    assert messages(records) == [paused(1), paused(2), paused(3)]
    assert messages(await bus.events(RUN, after=records[0].sequence)) == [paused(2), paused(3)]
    assert await bus.events("20270101_000000") == []


async def test_events_of_one_name_in_one_run_or_in_all(bus: Bus) -> None:
    resumed = RunResumed(run_id=RUN, by="operator", reason="fed")
    for event in (paused(1), resumed, paused(1, OTHER), paused(2)):
        await bus.publish(event)
    assert messages(await bus.events(name="run_paused")) == [paused(1), paused(1, OTHER), paused(2)]
    records = await bus.events(RUN, name="run_paused")
    assert messages(records) == [paused(1), paused(2)]
    assert [record.pending for record in records] == [1, 0]
    assert messages(await bus.events(RUN, name="run_paused", after=records[0].sequence)) == [paused(2)]
    assert messages(await bus.events(name="run_resumed")) == [resumed]
    assert await bus.events(RUN, name="run_finished") == []
    assert await bus.events(RUN, name="run") == []


async def test_the_past_comes_one_by_one_however_long_it_is(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jetstream, "PAGE", 2)
    for ordinal in range(1, 6):
        await bus.publish(paused(ordinal))
    records = [record async for record in bus.past(RUN)]
    assert messages(records) == [paused(ordinal) for ordinal in range(1, 6)]
    assert [record.pending for record in records] == [4, 3, 2, 1, 0]
    assert [record async for record in bus.past(RUN, after=records[3].sequence)] == records[4:]
    assert [record async for record in bus.past("20270101_000000")] == []


async def test_the_same_id_twice_counts_once(bus: Bus) -> None:
    await bus.publish(paused(1))
    await bus.publish(paused(1))
    assert len(await bus.events()) == 1


async def test_a_record_says_when_and_by_whom(connect: Connect) -> None:
    trainer = await connect("trainer")
    await trainer.publish(paused(1))
    (record,) = await (await connect()).events()
    assert record.source == "/worldloop/trainer"
    assert abs(record.time - datetime.now(UTC)) < timedelta(minutes=1)


async def test_the_last_event_of_a_name(bus: Bus) -> None:
    assert await bus.last_event(RUN, "run_paused") is None
    for event in (
        paused(1),
        paused(2),
        RunResumed(run_id=RUN, by="operator", reason="fed"),
        paused(3, OTHER),
    ):
        await bus.publish(event)
    record = await bus.last_event(RUN, "run_paused")
    assert record is not None
    assert record.message == paused(2)
    assert record.sequence == (await bus.events(RUN))[1].sequence


async def test_an_event_that_cannot_be_read_is_no_last_one(bus: Bus, put_raw: PutRaw) -> None:
    await put_raw(Envelope(f"worldloop.{RUN}.event.run_started", b"{}", {"ce-id": "x"}))
    assert await bus.last_event(RUN, "run_started") is None


# --- append -----------------------------------------------------------------------------------------------


async def test_append_goes_on_from_the_runs_own_last_event(bus: Bus) -> None:
    sequence = await bus.append(paused(1), after=0)
    await bus.publish(paused(1, OTHER))
    assert await bus.append(paused(2), after=sequence) > sequence + 1
    assert messages(await bus.events(RUN)) == [paused(1), paused(2)]


async def test_append_conflicts_with_any_event_of_the_run_that_came_first(bus: Bus) -> None:
    sequence = await bus.append(paused(1), after=0)
    await bus.publish(RunResumed(run_id=RUN, by="operator", reason="fed"))
    with pytest.raises(SequenceConflict) as caught:
        await bus.append(paused(2), after=sequence)
    with pytest.raises(SequenceConflict):
        await bus.append(paused(3), after=0)
    assert [record.sequence for record in await bus.events(RUN)] == [sequence, caught.value.last]


async def test_of_two_that_append_after_the_same_event_one_wins(connect: Connect) -> None:
    one, two = await connect("gatekeeper"), await connect("gatekeeper")
    outcomes = await asyncio.gather(
        one.append(paused(1), after=0), two.append(paused(2), after=0), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["SequenceConflict", "int"]
    assert len(await one.events(RUN)) == 1


async def test_appending_an_id_that_is_in_the_log_makes_no_second_event(bus: Bus) -> None:
    sequence = await bus.append(paused(1), after=0)
    assert await bus.append(paused(1), after=sequence) == sequence
    with pytest.raises(SequenceConflict):
        await bus.append(paused(1), after=0)
    assert len(await bus.events(RUN)) == 1


# --- follow -----------------------------------------------------------------------------------------------


async def test_follow_gives_the_past_and_then_what_comes(bus: Bus) -> None:
    await bus.publish(paused(1))
    await bus.publish(paused(2))
    async with contextlib.aclosing(bus.follow()) as events:
        past = await take(events, 2)
        await bus.publish(paused(3))
        (live,) = await take(events, 1)
    assert messages([*past, live]) == [paused(1), paused(2), paused(3)]
    assert [past[0].pending, past[1].pending, live.pending] == [1, 0, 0]


async def test_follow_keeps_to_one_run_and_starts_after_a_sequence(bus: Bus) -> None:
    for event in (paused(1), paused(1, OTHER), paused(2)):
        await bus.publish(event)
    seen = (await bus.events(RUN))[0].sequence
    async with contextlib.aclosing(bus.follow(run_id=RUN, after=seen)) as events:
        await bus.publish(paused(2, OTHER))
        await bus.publish(paused(3))
        assert messages(await take(events, 2)) == [paused(2), paused(3)]


async def test_every_follower_gets_every_event_and_takes_none_from_a_consumer(connect: Connect) -> None:
    bus = await connect()
    await bus.publish(paused(1))
    for follower in (bus, await connect("gatekeeper")):
        async with contextlib.aclosing(follower.follow()) as events:
            assert messages(await take(events, 1)) == [paused(1)]
    assert (await first(bus, Consumer("monitor", "event"))).message() == paused(1)


async def test_follow_gives_telemetry_and_commands_as_they_come(bus: Bus) -> None:
    await bus.publish(paused(1))
    async with contextlib.aclosing(bus.follow(("event", "telemetry", "command"), RUN)) as everything:
        past = await take(everything, 1)
        await bus.publish(heartbeat(OTHER))
        await bus.publish(heartbeat())
        await bus.publish(stop(1))
        live = await take(everything, 2)
    assert messages(past + live) == [paused(1), heartbeat(), stop(1)]
    assert [record.sequence for record in live] == [0, 0]


async def test_what_cannot_be_read_is_left_out_and_becomes_a_dead_letter(
    connect: Connect, put_raw: PutRaw
) -> None:
    gatekeeper = await connect("gatekeeper")
    subject = f"worldloop.{RUN}.event.run_paused"
    await put_raw(Envelope(subject, b"{}", {"ce-id": "x"}))
    await gatekeeper.publish(paused(1))
    async with contextlib.aclosing(gatekeeper.follow()) as events:
        assert messages(await take(events, 1)) == [paused(1)]
    (letter,) = await gatekeeper.dead_letters()
    assert (letter.service, letter.name, letter.subject) == ("gatekeeper", "run_paused", subject)
    assert "by: Field required" in letter.reason


# --- durable consumers ------------------------------------------------------------------------------------


async def test_a_command_waits_for_its_service_and_is_gone_once_acked(connect: Connect) -> None:
    cli = await connect()
    await cli.publish(stop(1))
    await cli.publish(stop(2))
    trainer = await connect("trainer")
    async with contextlib.aclosing(trainer.subscribe(TRAINER)) as deliveries:
        for attempt in (1, 2):
            (delivery,) = await take(deliveries, 1)
            assert delivery.message() == stop(attempt)
            assert delivery.deliveries == 1
            await delivery.ack()
    await trainer.close()
    assert await nothing(await connect("trainer"))


async def test_a_command_that_was_acked_is_not_taken_again_when_sent_again(bus: Bus) -> None:
    await bus.publish(stop(1))
    await (await first(bus)).ack()
    await bus.publish(stop(1))
    assert await nothing(bus)


async def test_a_service_gets_its_own_commands_only(bus: Bus) -> None:
    await bus.publish(stop(1))
    task = asyncio.create_task(first(bus, Consumer("inference", "command")))
    assert (await first(bus)).message() == stop(1)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_message_that_is_not_settled_comes_again_after_the_ack_wait(bus: Bus) -> None:
    impatient = Consumer("trainer", "command", ack_wait_sec=0.2)
    await bus.publish(stop(1))
    assert (await first(bus, impatient)).deliveries == 1
    assert (await first(bus, impatient)).deliveries == 2


async def test_a_message_in_progress_does_not_come_again(bus: Bus) -> None:
    impatient = Consumer("trainer", "command", ack_wait_sec=1.0)
    await bus.publish(stop(1))
    delivery = await first(bus, impatient)
    for _ in range(5):
        await asyncio.sleep(0.25)
        await delivery.in_progress()
    assert await nothing(bus, impatient)


async def test_a_nak_brings_the_message_again_after_its_delay_and_lets_others_pass(bus: Bus) -> None:
    await bus.publish(stop(1))
    await (await first(bus)).nak(1.0)
    await bus.publish(stop(2))
    order: list[Any] = []
    async with contextlib.aclosing(bus.subscribe(TRAINER)) as deliveries:
        for delivery in await take(deliveries, 2):
            order.append((delivery.message(), delivery.deliveries))
            await delivery.ack()
    assert order == [(stop(2), 1), (stop(1), 2)]


async def test_a_terminated_message_never_comes_again(bus: Bus) -> None:
    impatient = Consumer("trainer", "command", ack_wait_sec=0.2)
    await bus.publish(stop(1))
    await (await first(bus, impatient)).term("no use")
    await asyncio.sleep(0.4)
    assert await nothing(bus, impatient)


async def test_deliveries_are_finite(bus: Bus) -> None:
    thrice = Consumer("trainer", "command", ack_wait_sec=0.1, max_deliver=3)
    await bus.publish(stop(1))
    assert [(await first(bus, thrice)).deliveries for _ in range(3)] == [1, 2, 3]
    await asyncio.sleep(0.3)
    assert await nothing(bus, thrice)


async def test_a_consumer_of_events_gets_the_names_it_wants_past_and_live(connect: Connect) -> None:
    bus, monitor = await connect(), Consumer("monitor", "event", ("run_paused",))
    await bus.publish(paused(1))
    await bus.publish(RunResumed(run_id=RUN, by="operator", reason="fed"))
    async with contextlib.aclosing(bus.subscribe(monitor)) as deliveries:
        (past,) = await take(deliveries, 1)
        await past.ack()
        await bus.publish(paused(2))
        (live,) = await take(deliveries, 1)
        await live.ack()
    assert [past.message(), live.message()] == [paused(1), paused(2)]
    again = await connect("monitor")
    await bus.publish(paused(3))
    assert (await first(again, monitor)).message() == paused(3)


async def test_a_delivery_that_cannot_be_read_says_why(bus: Bus, put_raw: PutRaw) -> None:
    subject = f"worldloop.{RUN}.command.trainer.stop"
    await put_raw(Envelope(subject, b"not json", {"ce-id": "x"}))
    with pytest.raises(MessageError, match=f"{subject}.*payload"):
        (await first(bus)).message()


# --- dead letters -------------------------------------------------------------------------------------------


async def test_dead_letters_keep_the_message_and_the_reason(bus: Bus) -> None:
    letter = DeadLetter(
        run_id=RUN,
        service="trainer",
        name="stop",
        subject=f"worldloop.{RUN}.command.trainer.stop",
        reason="50 % of it\nis ünreadable",
        deliveries=3,
        data=b"\x00\xff",
        headers={"ce-id": "x"},
    )
    await bus.dead_letter(letter)
    assert await bus.dead_letters() == [letter]
    assert await bus.dead_letters(RUN) == [letter]
    assert await bus.dead_letters(OTHER) == []


async def test_a_delivery_that_was_expected_to_be_something_can_be_buried(bus: Bus) -> None:
    """The headers of a stored message must not hold up its dead letter."""
    await bus.append(paused(1), after=0)
    await (await first(bus, Consumer("monitor", "event"))).ack()
    await bus.append(paused(2), after=1)
    delivery = await first(bus, Consumer("monitor", "event"))
    letter = DeadLetter(
        RUN,
        "monitor",
        "run_paused",
        delivery.subject,
        "no",
        delivery.deliveries,
        delivery.data,
        delivery.headers,
    )
    await bus.dead_letter(letter)
    (kept,) = await bus.dead_letters()
    assert kept.data == delivery.data
    assert kept.headers["ce-id"] == paused(2).id


# --- what waits -------------------------------------------------------------------------------------------


async def test_a_bus_that_nobody_has_used_has_no_backlog(bus: Bus) -> None:
    assert await bus.backlog() == []


async def test_the_backlog_counts_what_a_service_has_not_taken_and_what_it_has_not_settled(bus: Bus) -> None:
    monitor = Consumer("monitor", "event", ("run_paused",))
    await bus.publish(stop(1))
    await (await first(bus)).ack()
    assert await bus.backlog() == [Backlog("trainer")]
    for attempt in (2, 3, 4):
        await bus.publish(stop(attempt))
    for event in (paused(1), paused(2, OTHER), RunResumed(run_id=RUN, by="operator", reason="")):
        await bus.publish(event)
    delivery, taken = await first(bus), await first(bus, monitor)
    assert await bus.backlog() == [
        Backlog("trainer", waiting=2, unsettled=1),
        Backlog("monitor", waiting=1, unsettled=1),
    ]
    await delivery.nak()
    again = await first(bus)
    assert again.deliveries == 2
    await taken.ack()
    assert await bus.backlog() == [
        Backlog("trainer", waiting=2, unsettled=1, redelivered=1),
        Backlog("monitor", waiting=1),
    ]
    await again.ack()
    assert (await bus.backlog())[0] == Backlog("trainer", waiting=2)


async def test_the_backlog_counts_a_services_further_consumers(bus: Bus) -> None:
    await bus.publish(paused(1))
    await first(bus, Consumer("monitor", "event", purpose="telling"))
    await (await first(bus, Consumer("monitor", "event"))).ack()
    await bus.publish(paused(2))
    assert await bus.backlog() == [Backlog("monitor", waiting=2, unsettled=1)]


async def test_the_backlog_counts_dead_letters_by_service_and_run_and_no_follower(bus: Bus) -> None:
    def letter(run_id: str, name: str) -> DeadLetter:
        subject = f"worldloop.{run_id}.event.{name}"
        return DeadLetter(run_id, "monitor", name, subject, "no", 1, b"{}", {"ce-id": f"{run_id}/{name}"})

    for run_id, name in ((RUN, "run_paused"), (RUN, "run_resumed"), (OTHER, "run_paused")):
        await bus.dead_letter(letter(run_id, name))
    await bus.publish(paused(1))
    async with contextlib.aclosing(bus.follow()) as records:
        await take(records, 1)
        assert await bus.backlog() == [Backlog("monitor", dead={RUN: 2, OTHER: 1})]


# --- telemetry, end ---------------------------------------------------------------------------------------


async def test_telemetry_is_sent_without_anyone_listening_and_is_no_event(bus: Bus) -> None:
    await bus.publish(heartbeat())
    assert await bus.events() == []


async def test_a_closed_bus_is_not_connected(bus: Bus) -> None:
    assert bus.connected
    await bus.close()
    assert not bus.connected


async def test_a_further_consumer_of_a_service_has_a_place_of_its_own_and_may_begin_now(bus: Bus) -> None:
    whole = Consumer("reporter", "event", ("run_paused",))
    further = Consumer(
        "reporter", "event", ("run_paused",), purpose="more", only_new=True, forget_after_sec=60
    )
    await bus.publish(paused(1))
    made, ordinal = asyncio.create_task(first(bus, further)), 1
    while not made.done():
        ordinal += 1
        await bus.publish(paused(ordinal))
        await asyncio.sleep(0.02)
    got = made.result().message()
    assert isinstance(got, RunPaused)
    assert got.ordinal > 1
    await made.result().ack()
    following = (await first(bus, further)).message() if ordinal > got.ordinal else paused(got.ordinal + 1)
    assert following == paused(got.ordinal + 1)
    assert (await first(bus, whole)).message() == paused(1)
