"""What only a real server can show: its absence, its restarts, its streams."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from typing import Any

import nats.errors
import pytest
from nats.js.errors import APIError

from services import nats_server as program
from shared.bus import streams
from shared.bus.jetstream import JetStreamBus
from shared.bus.protocol import Consumer, Recorded
from shared.errors import BusError
from shared.events import RunPaused, StopChunk

RUN = "20260101_000000"


def paused(ordinal: int) -> RunPaused:
    return RunPaused(run_id=RUN, by="operator", reason="lunch", ordinal=ordinal)


class Wire:
    """A connection to the server that can lose what the server says, and break."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._streams: list[asyncio.StreamWriter] = []
        self.losing = False

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"nats://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        for stream in self._streams:
            stream.close()
        self._streams.clear()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        self._streams += [writer, to_server]

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, *, down: bool) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    if not (down and self.losing):
                        target.write(data)

        await asyncio.gather(pump(reader, to_server, down=False), pump(upstream, writer, down=True))


async def test_an_event_that_was_lost_with_the_connection_is_followed_all_the_same(
    fresh_nats_server: Any,
) -> None:
    writer = await JetStreamBus.connect(fresh_nats_server.url)
    async with Wire(fresh_nats_server.port) as wire:
        reader = await JetStreamBus.connect(wire.url)
        await writer.publish(paused(1))
        async with contextlib.aclosing(reader.follow()) as events:
            assert (await anext(events)).message == paused(1)
            waiting = asyncio.create_task(anext(events))
            await asyncio.sleep(0.1)  # the server has the pull and answers it with what comes next
            wire.losing = True
            await writer.publish(paused(2))
            await asyncio.sleep(0.1)
            wire.losing = False
            wire.cut()
            assert (await asyncio.wait_for(waiting, 60)).message == paused(2)
            await writer.publish(paused(3))
            assert (await asyncio.wait_for(anext(events), 60)).message == paused(3)
        await reader.close()
    await writer.close()


async def test_an_append_whose_answer_was_lost_is_no_conflict_with_itself(fresh_nats_server: Any) -> None:
    async with Wire(fresh_nats_server.port) as wire:
        bus = await JetStreamBus.connect(wire.url)
        wire.losing = True
        appending = asyncio.create_task(bus.append(paused(1), after=0))
        await asyncio.sleep(0.1)
        wire.losing = False
        assert await asyncio.wait_for(appending, 60) == 1
        assert len(await bus.events()) == 1
        await bus.close()


async def test_a_follower_goes_on_after_the_server_was_killed_without_gaps_or_repeats(
    fresh_nats_server: Any,
) -> None:
    writer = await JetStreamBus.connect(fresh_nats_server.url)
    reader = await JetStreamBus.connect(fresh_nats_server.url)
    seen: list[Recorded] = []

    async def read(until: int) -> None:
        async with contextlib.aclosing(reader.follow()) as events:
            async for record in events:
                seen.append(record)
                if record.message == paused(until):
                    return

    reading = asyncio.create_task(read(30))
    for ordinal in range(1, 31):
        await writer.publish(paused(ordinal))
        if ordinal in (10, 20):
            fresh_nats_server.kill()
            fresh_nats_server.start()
    await asyncio.wait_for(reading, 60)
    assert [record.message for record in seen] == [paused(n) for n in range(1, 31)]
    await writer.close()
    await reader.close()


async def test_what_is_published_while_the_server_is_away_arrives_once(fresh_nats_server: Any) -> None:
    bus = await JetStreamBus.connect(fresh_nats_server.url)
    consumer = Consumer("trainer", "command")
    async with contextlib.aclosing(bus.subscribe(consumer)) as deliveries:
        waiting = asyncio.create_task(anext(deliveries))
        await asyncio.sleep(0.1)
        fresh_nats_server.kill()
        sending = asyncio.create_task(bus.publish(StopChunk(run_id=RUN, stage="dynamics", attempt=1)))
        appending = asyncio.create_task(bus.append(paused(1), after=0))
        await asyncio.sleep(1.5)
        assert not sending.done()
        fresh_nats_server.start()
        delivery = await asyncio.wait_for(waiting, 60)
        await delivery.ack()
        await asyncio.wait_for(sending, 60)
        assert await asyncio.wait_for(appending, 60) == 1
    assert len(await bus.events()) == 1
    await bus.close()


async def test_the_stream_in_memory_is_made_again_when_the_server_was_killed(fresh_nats_server: Any) -> None:
    bus = await JetStreamBus.connect(fresh_nats_server.url, wait_sec=20)
    js = bus._connection.js
    fresh_nats_server.kill()
    fresh_nats_server.start()
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(nats.errors.Error):
                if (await js.stream_info(streams.TELEMETRY)).config.storage == "memory":
                    break
            await asyncio.sleep(0.05)
    await bus.close()


async def test_no_server_is_an_error_that_names_the_cure() -> None:
    url = f"nats://127.0.0.1:{program.free_port()}"
    with pytest.raises(BusError, match=f"no NATS server with JetStream at {url}.*worldloop up"):
        await JetStreamBus.connect(url, wait_sec=0.3)


async def test_a_server_that_starts_later_is_waited_for(fresh_nats_server: Any) -> None:
    fresh_nats_server.kill()
    connecting = asyncio.create_task(JetStreamBus.connect(fresh_nats_server.url, wait_sec=None))
    await asyncio.sleep(0.3)
    assert not connecting.done()
    fresh_nats_server.start()
    bus = await asyncio.wait_for(connecting, 60)
    assert bus.connected
    await bus.close()


async def test_a_server_without_jetstream_is_an_error_that_names_the_cure() -> None:
    port = program.free_port()
    server = await asyncio.create_subprocess_exec(
        program.find(), "-a", "127.0.0.1", "-p", str(port), stderr=subprocess.DEVNULL
    )
    try:
        with pytest.raises(BusError, match=r"JetStream is off.*nats-server with -js"):
            await JetStreamBus.connect(f"nats://127.0.0.1:{port}", wait_sec=2.0)
    finally:
        server.terminate()
        await server.wait()


async def test_the_backlog_does_not_wait_for_a_server_that_is_away_and_needs_no_stream(
    fresh_nats_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.bus.backlogs.LOOK_SEC", 0.2)
    bus = await JetStreamBus.connect(fresh_nats_server.url)
    await bus._connection.js.delete_stream(streams.COMMANDS)
    await bus._connection.js.delete_stream(streams.DEAD)
    assert await bus.backlog() == []
    fresh_nats_server.kill()
    with pytest.raises(BusError, match="does not answer"):
        await bus.backlog()
    await bus.close()


async def test_streams_of_another_kind_under_our_names_are_refused(fresh_nats_server: Any) -> None:
    bus = await JetStreamBus.connect(fresh_nats_server.url)
    await bus._connection.js.delete_stream(streams.COMMANDS)
    await bus._connection.js.add_stream(
        name=streams.COMMANDS, subjects=["worldloop.*.command.>"], retention="limits"
    )
    with pytest.raises(BusError, match=r"cannot be used.*retention"):
        await JetStreamBus.connect(fresh_nats_server.url)
    await bus.close()


async def test_streams_are_asked_for_with_as_many_replicas_as_are_set(fresh_nats_server: Any) -> None:
    with pytest.raises(BusError, match="replicas > 1 not supported in non-clustered mode"):
        await JetStreamBus.connect(fresh_nats_server.url, replicas=3)


async def test_connecting_again_keeps_what_an_operator_has_set(fresh_nats_server: Any) -> None:
    bus = await JetStreamBus.connect(fresh_nats_server.url)
    found = (await bus._connection.js.stream_info(streams.EVENTS)).config
    await bus._connection.js.update_stream(found.evolve(max_bytes=2**30, duplicate_window=5))
    await bus.close()
    bus = await JetStreamBus.connect(fresh_nats_server.url)
    found = (await bus._connection.js.stream_info(streams.EVENTS)).config
    assert (found.max_bytes, found.duplicate_window) == (2**30, streams.DUPLICATE_WINDOW_SEC)
    await bus.close()


async def test_events_can_be_neither_deleted_nor_purged(fresh_nats_server: Any) -> None:
    bus = await JetStreamBus.connect(fresh_nats_server.url)
    await bus.publish(paused(1))
    for attempt in (
        bus._connection.js.delete_msg(streams.EVENTS, 1),
        bus._connection.js.purge_stream(streams.EVENTS),
    ):
        with pytest.raises(APIError):
            await attempt
    assert len(await bus.events()) == 1
    await bus.close()


async def test_a_cancellation_that_meets_the_servers_answer_is_not_forgotten(fresh_nats_server: Any) -> None:
    bus = await JetStreamBus.connect(fresh_nats_server.url)
    sending = asyncio.create_task(bus.publish(paused(1)))
    while not (requests := list(bus._connection.nc._resp_map.values())):  # noqa: ASYNC110 - the client's own business
        await asyncio.sleep(0)
    requests[-1].add_done_callback(lambda _: sending.cancel())
    await asyncio.wait([sending], timeout=60)
    assert sending.cancelled()
    await bus.close()
