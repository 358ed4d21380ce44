"""What a real nats-server lets each user do, and how it says no."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import nats
import pytest
import structlog.testing
from nats.js.api import ConsumerConfig

from services.keys import certificates, permissions
from services.keys import directory as keys
from services.keys.permissions import OBSERVER, OPERATOR, USERS
from services.schemas.traffic import consumers, senders
from shared.bus import streams
from shared.bus.jetstream import JetStreamBus
from shared.bus.protocol import Consumer
from shared.errors import BusError, ConfigurationError, SequenceConflict
from shared.events import MESSAGES, SERVICES, Heartbeat, RunPaused, StopChunk
from tests.conftest import NatsServer, write_keys

RUN = "20260101_000000"
VIOLATION = re.compile(r'permissions violation for \w+ to "([^"]+)"', re.IGNORECASE)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server with the keys of every user, TLS and the streams, for all tests of this module."""
    directory = tmp_path_factory.mktemp("guarded")
    server = NatsServer(directory, write_keys(directory))
    server.start()

    async def make_streams() -> None:
        await (await bus_of(server, OPERATOR)).close()

    asyncio.run(make_streams())
    yield server
    server.stop()


def key(server: NatsServer, user: str) -> Path:
    return keys.key_of(server.directory / "keys", user)


def ca(server: NatsServer) -> Path:
    return server.directory / "keys" / keys.CA


async def bus_of(server: NatsServer, user: str, **given: Any) -> JetStreamBus:
    url = f"tls://127.0.0.1:{server.port}"
    source = "cli" if user in (OPERATOR, OBSERVER) else user
    settings: dict[str, Any] = {"source": source, "key": key(server, user), "ca": ca(server)} | given
    return await JetStreamBus.connect(settings.pop("url", url), **settings)


class Outsider:
    """A plain client that knows nothing of ours, and what the server refused it."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.client: Any = None

    async def note(self, error: Exception) -> None:
        if found := VIOLATION.search(str(error)):
            self.refused.add(found[1])  # nats-py gives it in lower case

    async def settled(self) -> None:
        """Wait until the server has answered all that was sent."""
        await self.client.request("$JS.API.INFO", timeout=60)


@pytest.fixture
async def enter(guarded: NatsServer) -> AsyncIterator[Callable[[str], Any]]:
    """Connects as a user: `await enter("trainer")`."""
    entered: list[Outsider] = []

    async def connect(user: str) -> Outsider:
        outsider = Outsider()
        outsider.client = await nats.connect(
            f"tls://127.0.0.1:{guarded.port}",
            nkeys_seed=str(key(guarded, user)),
            tls=ssl.create_default_context(cafile=str(ca(guarded))),
            tls_handshake_first=True,
            inbox_prefix=f"_INBOX_{user}",
            error_cb=outsider.note,
        )
        entered.append(outsider)
        return outsider

    yield connect
    for each in entered:
        await each.client.close()


async def refused(outsider: Outsider, subjects: Sequence[str]) -> set[str]:
    """Which of the subjects the server does not let be published on."""
    for subject in subjects:
        await outsider.client.publish(subject, b"noise", headers={"Nats-Expected-Stream": "NONE"})  # not kept
    await outsider.settled()
    return {subject for subject in subjects if subject.lower() in outsider.refused}


@pytest.mark.parametrize("user", USERS)
async def test_a_user_publishes_the_messages_that_the_table_of_traffic_gives_it_and_no_other(
    enter: Any, user: str
) -> None:
    outsider = await enter(user)
    party: Any = {OPERATOR: "cli"}.get(user, user)
    subjects = {cls: permissions.address(cls).replace("*", "20200101_000000") for cls in MESSAGES.values()}
    expected = {subject for cls, subject in subjects.items() if party not in senders(cls)}
    assert await refused(outsider, sorted(subjects.values())) == expected
    assert len(expected) == len(subjects) if user == OBSERVER else 0 < len(expected) < len(subjects)
    dead = {f"worldloop.{RUN}.dead.{each}.stop" for each in SERVICES}
    assert await refused(outsider, sorted(dead)) == dead - {f"worldloop.{RUN}.dead.{user}.stop"}


@pytest.mark.parametrize("user", USERS)
async def test_nobody_deletes_anything_or_touches_the_consumers_of_others(enter: Any, user: str) -> None:
    outsider = await enter(user)
    subjects = ["$SYS.REQ.SERVER.PING", "$JS.API.STREAM.CREATE.MINE", "$JS.API.ACCOUNT.PURGE.$G"]
    for stream in streams.STREAMS:
        verbs = ("STREAM.DELETE", "STREAM.PURGE", "STREAM.MSG.DELETE", "STREAM.RESTORE", "CONSUMER.CREATE")
        subjects += [f"$JS.API.{verb}.{stream.name}" for verb in verbs]
        subjects += [f"$JS.API.CONSUMER.DELETE.{stream.name}.{each.durable}" for each in consumers()]
    for each in [*consumers(), *consumers(1), *consumers(permissions.HOSTS - 1)]:
        if each.service != user:
            stream_name = streams.COMMANDS if each.kind == "command" else streams.EVENTS
            place = f"{stream_name}.{each.durable}"
            subjects += [
                f"$JS.API.CONSUMER.{verb}.{place}" for verb in ("MSG.NEXT", "CREATE", "DURABLE.CREATE")
            ]
            subjects += [f"$JS.API.CONSUMER.CREATE.{place}.worldloop.x", f"$JS.ACK.{place}.1.1.1.1.0"]
    if user not in streams.MAKERS:
        subjects += [f"$JS.API.STREAM.{verb}.{streams.EVENTS}" for verb in ("CREATE", "UPDATE")]
    subjects += [f"$JS.API.CONSUMER.CREATE.{streams.COMMANDS}.own.worldloop.*.command.trainer.*"]
    if user != "reporter":  # somebody is told of what the reporter has acked, and of nothing else
        place = f"{streams.EVENTS}.{Consumer('reporter', 'event', purpose='notify-team').durable}"
        subjects += [f"$JS.API.CONSUMER.CREATE.{place}", f"$JS.ACK.{place}.1.1.1.1.0"]
    assert await refused(outsider, subjects) == set(subjects)


@pytest.mark.parametrize("user", USERS)
async def test_nobody_listens_to_the_inbox_of_another_or_to_commands(enter: Any, user: str) -> None:
    outsider = await enter(user)
    others = [f"_INBOX_{each}.>" for each in USERS if each != user]
    subjects = [*others, "_INBOX.>", ">", "*.>", "$JS.>", "worldloop.>", "worldloop.*.command.>"]
    allowed = [f"_INBOX_{user}.mine", "worldloop.*.event.*", "worldloop.*.telemetry.heartbeat"]
    for subject in (*subjects, *allowed):
        await outsider.client.subscribe(subject)
    await outsider.settled()
    assert outsider.refused == {subject.lower() for subject in subjects}


async def test_a_service_gets_no_commands_of_another_even_under_its_own_name(enter: Any) -> None:
    outsider = await enter("trainer")
    js = outsider.client.jetstream(timeout=0.3)
    for subject in ("worldloop.*.command.gatekeeper.*", "worldloop.*.command.>"):
        config = ConsumerConfig(
            name="trainer-commands", durable_name="trainer-commands", filter_subject=subject
        )
        with pytest.raises(TimeoutError):
            await js.add_consumer(streams.COMMANDS, config)
    assert len(outsider.refused) == 2


async def test_the_observer_reads_the_past_and_hears_what_is_new_and_makes_no_consumer(
    guarded: NatsServer, enter: Any
) -> None:
    run = "20260102_000000"
    gatekeeper = await bus_of(guarded, "gatekeeper")
    observer = await enter(OBSERVER)
    news = await observer.client.subscribe(f"worldloop.{run}.event.*")
    await observer.settled()
    event = RunPaused(run_id=run, by="operator", reason="lunch", ordinal=1)
    sequence = await gatekeeper.append(event, after=0)
    js = observer.client.jetstream()
    past = await js.get_msg(streams.EVENTS, seq=1, subject=f"worldloop.{run}.event.*", next=True)
    assert (past.seq, past.data) == (sequence, event.model_dump_json().encode())
    assert (await news.next_msg(timeout=60)).data == past.data
    config = ConsumerConfig(name="mine", filter_subject="worldloop.*.event.*")
    with pytest.raises(TimeoutError):
        await observer.client.jetstream(timeout=0.3).add_consumer(streams.EVENTS, config)
    await gatekeeper.close()


async def test_what_the_observer_has_answered_on_our_subjects_arrives_nowhere(
    guarded: NatsServer, enter: Any
) -> None:
    """JetStream answers wherever a request says, also where the asker may not publish."""
    run = "20260104_000000"
    observer, operator = await enter(OBSERVER), await enter(OPERATOR)
    events = f"worldloop.{run}.event.run_resumed"
    heard = await operator.client.subscribe(f"worldloop.{run}.event.*")
    inbox = await operator.client.subscribe(f"_INBOX_{OPERATOR}.awaited")
    await operator.settled()
    before = [(await operator.client.jetstream().stream_info(each.name)).state for each in streams.STREAMS]
    for request in permissions.looking():
        for reply in (events, f"worldloop.{run}.command.nobody.stop", f"_INBOX_{OPERATOR}.awaited"):
            await observer.client.publish(request, b"", reply=reply)
    await observer.settled()
    await operator.settled()
    after = [(await operator.client.jetstream().stream_info(each.name)).state for each in streams.STREAMS]
    assert [each.last_seq for each in after] == [each.last_seq for each in before]
    assert (heard.pending_msgs, inbox.pending_msgs) == (0, 0)


async def test_what_a_service_has_answered_on_our_subjects_is_no_message(
    guarded: NatsServer, enter: Any
) -> None:
    run = "20260105_000000"
    monitor, gatekeeper = await enter("monitor"), await bus_of(guarded, "gatekeeper")
    await monitor.client.publish("$JS.API.INFO", b"", reply=f"worldloop.{run}.event.run_resumed")
    operator = await bus_of(guarded, OPERATOR)
    await monitor.settled()
    with structlog.testing.capture_logs() as told:
        assert await gatekeeper.events(run) == []
    assert "cannot be read" in told[0]["event"]
    assert len(await operator.dead_letters(run)) == 1
    event = RunPaused(run_id=run, by="operator", reason="lunch", ordinal=1)
    with pytest.raises(SequenceConflict) as conflict:
        await gatekeeper.append(event, after=0)
    assert conflict.value.last is not None
    assert await gatekeeper.append(event, after=conflict.value.last) > conflict.value.last
    await gatekeeper.close()
    await operator.close()


async def test_a_key_the_server_has_forgotten_ends_its_connection_and_is_told_why(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, write_keys(tmp_path))
    server.start()
    try:
        bus = await bus_of(server, "gatekeeper")
        key(server, "gatekeeper").unlink()
        keys.make_users(tmp_path / "keys")
        with structlog.testing.capture_logs() as told:
            server.reload()
            while not any("does not know the key" in str(each.get("problem")) for each in told):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not bus.connected
        await bus.close()
    finally:
        server.stop()


async def test_a_service_connects_again_after_the_server_has_lost_what_was_in_memory(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, write_keys(tmp_path))
    server.start()
    try:
        await (await bus_of(server, OPERATOR)).close()
        server.kill()
        server.start()
        await (await bus_of(server, "inference")).close()
    finally:
        server.stop()


async def test_the_bus_does_its_work_under_the_permissions(guarded: NatsServer) -> None:
    run = "20260103_000000"
    gatekeeper, trainer, operator = [
        await bus_of(guarded, user) for user in ("gatekeeper", "trainer", OPERATOR)
    ]
    command = StopChunk(run_id=run, stage="dynamics", attempt=1)
    async with (
        contextlib.aclosing(trainer.subscribe(Consumer("trainer", "command"))) as deliveries,
        contextlib.aclosing(operator.follow(("event", "telemetry"), run)) as news,
    ):
        await gatekeeper.publish(command)
        delivery = await asyncio.wait_for(anext(deliveries), 60)
        await delivery.in_progress()
        assert delivery.message() == command
        await delivery.ack()
        hearing = asyncio.create_task(anext(news))
        event = RunPaused(run_id=run, by="operator", reason="lunch", ordinal=1)
        await gatekeeper.append(event, after=0)
        assert (await asyncio.wait_for(hearing, 60)).message == event
        hearing = asyncio.create_task(anext(news))
        beat = Heartbeat(run_id=run, service="trainer", pid=1, host="here", working_on=[])
        await trainer.publish(beat)
        assert (await asyncio.wait_for(hearing, 60)).message == beat
    on_a_host = Consumer("trainer", "command", node_rank=1)
    async with contextlib.aclosing(trainer.subscribe(on_a_host)) as deliveries:
        with pytest.raises(TimeoutError):  # nothing to do is no refusal
            await asyncio.wait_for(anext(deliveries), 0.3)
    last = await trainer.last_event(run, "run_paused")
    assert last is not None
    assert last.message == event
    assert [each.message for each in await trainer.events(run)] == [event]
    assert await operator.dead_letters(run) == []
    assert "trainer" in {each.service for each in await operator.backlog()}
    for bus in (gatekeeper, trainer, operator):
        await bus.close()


async def test_what_is_not_allowed_is_an_error_at_once_that_names_user_subject_and_cure(
    guarded: NatsServer,
) -> None:
    trainer = await bus_of(guarded, "trainer")
    event = RunPaused(run_id=RUN, by="operator", reason="lunch", ordinal=1)
    names = f"does not allow the user trainer to publish on worldloop.{RUN}.event.run_paused.*keys init"
    with structlog.testing.capture_logs() as told, pytest.raises(BusError, match=names):
        await trainer.publish(event)
    assert [each["log_level"] for each in told] == ["error"]
    with pytest.raises(BusError, match=r"the user trainer .*CONSUMER.CREATE.*monitor-events"):
        await anext(trainer.subscribe(Consumer("monitor", "event", ("chunk_started", "chunk_done"))))
    await trainer.close()
    observer = await bus_of(guarded, OBSERVER)
    with pytest.raises(BusError, match="does not allow the user observer"):
        await observer.events(RUN)
    await observer.close()


async def test_a_consumer_that_the_server_refuses_is_an_error_and_not_tried_for_ever(
    fresh_nats_server: Any,
) -> None:
    bus = await JetStreamBus.connect(fresh_nats_server.url)
    other = ConsumerConfig(durable_name="other", filter_subject="worldloop.*.command.trainer.*")
    await bus._connection.js.add_consumer(streams.COMMANDS, other)
    with pytest.raises(BusError, match=r"consumer trainer-commands .*NATS refuses: .*not unique"):
        await asyncio.wait_for(anext(bus.subscribe(Consumer("trainer", "command"))), 60)
    await bus.close()


async def test_who_has_no_key_or_an_unknown_one_gets_nothing_and_is_told_why(
    guarded: NatsServer, tmp_path: Path
) -> None:
    with pytest.raises(BusError, match="lets nobody in without a key: set WORLDLOOP_NATS_KEY"):
        await bus_of(guarded, OPERATOR, key=None, wait_sec=10)
    keys.make_users(tmp_path / "strange")
    strange = keys.key_of(tmp_path / "strange", OPERATOR)
    with pytest.raises(BusError, match=rf"does not know the key {strange}.*nats-auth\.conf"):
        await bus_of(guarded, OPERATOR, key=strange, wait_sec=10)


async def test_a_server_we_have_no_reason_to_trust_is_an_error_that_names_the_cure(
    guarded: NatsServer, tmp_path: Path
) -> None:
    keys.make_certificates(tmp_path, (), datetime.now(UTC))
    with pytest.raises(
        BusError, match=rf"does not hold: .*Trusted: {tmp_path / keys.CA}\. WORLDLOOP_NATS_CA"
    ):
        await bus_of(guarded, OPERATOR, ca=tmp_path / keys.CA, wait_sec=10)
    with pytest.raises(BusError, match=r"does not hold: .*WORLDLOOP_NATS_CA is not set"):
        await bus_of(guarded, OPERATOR, ca=None, wait_sec=10)
    await (
        await bus_of(guarded, OPERATOR, url=guarded.url)
    ).close()  # an address without tls:// is no way around


async def test_a_certificate_that_has_ended_or_is_for_another_host_is_an_error_that_names_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    include = write_keys(tmp_path)
    made = keys.renew(tmp_path / "keys", (), datetime.now(UTC) - timedelta(days=certificates.SERVER_DAYS + 1))
    assert made == certificates.ALWAYS
    server = NatsServer(tmp_path, include)
    server.start()
    try:
        with pytest.raises(BusError, match=r"expired.*worldloop keys renew"):
            await bus_of(server, OPERATOR, wait_sec=10)
        keys.renew(tmp_path / "keys", (), datetime.now(UTC))
        server.stop()
        server.start()
        await (await bus_of(server, OPERATOR)).close()
        monkeypatch.setattr(certificates, "ALWAYS", ())
        keys.renew(tmp_path / "keys", ["192.0.2.1"], datetime.now(UTC))
        server.stop()
        server.start()
        with pytest.raises(BusError, match=r"127\.0\.0\.1.*worldloop keys renew --host"):
            await bus_of(server, OPERATOR, wait_sec=10)
    finally:
        server.stop()


@pytest.mark.parametrize("first_words", [b"", b"INFO {}\r\n"])
async def test_a_first_connection_that_breaks_within_the_handshake_is_made_anew(
    guarded: NatsServer, first_words: bytes
) -> None:
    lines: list[Any] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append(asyncio.current_task())
        if len(lines) <= 2:
            await reader.read(1)
            writer.write(first_words)
            writer.close() if first_words else writer.transport.abort()
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", guarded.port)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    target.write(data)
            target.close()

        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))

    wire = await asyncio.start_server(accept, "127.0.0.1", 0)
    url = f"tls://127.0.0.1:{wire.sockets[0].getsockname()[1]}"
    bus = await bus_of(guarded, OPERATOR, url=url, wait_sec=20)
    assert len(lines) == 3
    await bus.close()
    wire.close()
    await asyncio.gather(*lines)


async def test_a_server_without_tls_is_refused_at_an_address_that_asks_for_it(fresh_nats_server: Any) -> None:
    with pytest.raises(BusError, match="does not begin with TLS"):
        await JetStreamBus.connect(f"tls://127.0.0.1:{fresh_nats_server.port}", wait_sec=10)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("operator.nk", None, "cannot be read .*WORLDLOOP_NATS_KEY.*worldloop keys init"),
        ("operator.nk", "SUSECRETSECRET", "holds no nkey seed"),
        ("Mallory *.nk", "SU" + "A" * 56, "is no user's name"),
    ],
)
async def test_a_key_that_is_none_is_an_error_that_names_the_file_and_not_its_content(
    tmp_path: Path, name: str, content: str | None, problem: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=problem) as caught:
        await JetStreamBus.connect("nats://127.0.0.1:1", key=path)
    assert str(path) in str(caught.value)
    assert content is None or content not in str(caught.value)
