from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.reporter import notify_services
from services.reporter.core.notices import Place, notice, trial, wait_sec
from services.reporter.notify import Pace, Teller
from services.reporter.notify_file import read
from services.reporter.notify_services import recipients
from shared import logs
from shared.bundle import Bundle
from shared.bus.memory import Broker, MemoryBus
from shared.bus.wire import encode
from shared.errors import ConfigurationError
from shared.events import AlertRaised, Event, ReportWritten, RunFinished, RunPaused, RunStarted
from shared.service import Runs
from shared.settings import Settings
from tests.messages import run_spec
from tests.unit.reporter.webhook import TOKEN, Webhook, hook

__all__ = ["hook"]

RUN = "20260101_000000"
SECRETS = (TOKEN, "p4ssw0rd", "hooks")
QUICK = Pace(alerts_sec=0.3, retry_sec=(0.05,), ack_wait_sec=5.0, look_sec=0.02)


@pytest.fixture
def other() -> Iterator[Webhook]:
    webhook = Webhook()
    yield webhook
    webhook.close()


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus("reporter", broker=Broker())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "notify.yaml"


def write(file: Path, *hooks: Webhook, **more: Any) -> None:
    urls = {name: hook.url for name, hook in zip(("team", "phone"), hooks, strict=False)}
    file.write_text(yaml.safe_dump({"urls": urls} | more))
    file.chmod(0o600)


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - what it waits for happens in other threads
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def telling(bus: MemoryBus, file: Path, tmp_path: Path, pace: Pace = QUICK) -> AsyncIterator[None]:
    runs = Runs(bus, Settings(output_root=tmp_path / "runs"))
    before = len(bus.broker.wanted)
    task = asyncio.create_task(Teller(bus, runs, file, lambda: "http://127.0.0.1:1/", pace).watch())
    if file.exists():
        names = len(yaml.safe_load(file.read_text())["urls"])
        await until(lambda: len(bus.broker.wanted) >= max(before, names))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def use(file: Path) -> None:
    found = read(file)
    assert found is not None
    recipients(found, file)


def started(tmp_path: Path) -> RunStarted:
    return RunStarted(run_id=RUN, spec=run_spec(tmp_path / "runs" / RUN))


def paused(ordinal: int = 1) -> RunPaused:
    return RunPaused(run_id=RUN, by="operator", reason="the operator asked", ordinal=ordinal)


def alert(ordinal: int) -> AlertRaised:
    return AlertRaised(
        run_id=RUN, channel=f"channel{ordinal}", silence_sec=200, limit_sec=180, ordinal=ordinal
    )


async def test_a_pause_is_told_with_run_reason_advice_bundle_and_page(
    bus: MemoryBus, file: Path, hook: Webhook, tmp_path: Path
) -> None:
    write(file, hook)
    async with telling(bus, file, tmp_path):
        await bus.publish(started(tmp_path))
        await bus.publish(paused())
        await until(lambda: bool(hook.got))
    (message,) = hook.got
    assert message["title"] == "worldloop: 2026_01_01_00_00_00_pong paused"
    assert message["type"] == "warning"
    for part in (
        "the operator asked",
        f"worldloop resume {RUN}",
        str(tmp_path / "runs" / RUN),
        "http://127.0.0.1:1/",
    ):
        assert part in message["message"]


async def test_the_end_of_a_run_names_its_report_and_brings_the_picture(
    bus: MemoryBus, file: Path, hook: Webhook, tmp_path: Path
) -> None:
    from tests.unit.reporter.conftest import Log

    bundle = Bundle(tmp_path / "runs" / RUN, "2026_01_01_00_00_00_pong")
    log = Log(bundle).begin()
    log.inference(picture="inference_results/inference_results_gt_vs_pred_1.png")
    picture = bundle.root / "inference_results" / "inference_results_gt_vs_pred_1.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    write(file, hook)
    async with telling(bus, file, tmp_path):
        for record in log.records:
            assert isinstance(record.message, Event)
            await bus.publish(record.message)
        await bus.publish(ReportWritten(run_id=RUN, report="loop", path="docs/action/a.md", ok=True))
        await bus.publish(ReportWritten(run_id=RUN, report="inference", path="docs/action/b.md", ok=True))
        await bus.publish(RunFinished(run_id=RUN, status="passed", degraded=False, reason="all is well"))
        await until(lambda: bool(hook.got))
    (message,) = hook.got
    assert message["title"].endswith("passed")
    assert message["type"] == "success"
    assert "report: docs/action/b.md" in message["message"]
    assert "mse" in message["message"]
    assert [each["filename"] for each in message["attachments"]] == [picture.name]


async def test_what_is_not_asked_for_is_not_told(
    bus: MemoryBus, file: Path, hook: Webhook, tmp_path: Path
) -> None:
    write(file, hook, tell=["failed"])
    async with telling(bus, file, tmp_path):
        await bus.publish(started(tmp_path))
        await bus.publish(paused())
        await bus.publish(RunFinished(run_id=RUN, status="failed", degraded=False, reason="no luck"))
        await until(lambda: bool(hook.got))
    assert hook.titles == ["worldloop: 2026_01_01_00_00_00_pong failed"]


async def test_a_restart_tells_nothing_twice_and_goes_on_where_it_was(
    bus: MemoryBus, file: Path, hook: Webhook, tmp_path: Path
) -> None:
    write(file, hook)
    async with telling(bus, file, tmp_path):
        await bus.publish(paused(1))
        await until(lambda: len(hook.got) == 1)
    await bus.publish(paused(2))
    async with telling(bus, file, tmp_path):
        await until(lambda: len(hook.got) == 2)
        await bus.publish(RunFinished(run_id=RUN, status="failed", degraded=False, reason="no luck"))
        await until(lambda: len(hook.got) == 3)
    assert len(hook.got) == 3


async def test_a_dead_service_is_tried_again_and_the_others_are_told_once(
    bus: MemoryBus, file: Path, hook: Webhook, other: Webhook, tmp_path: Path
) -> None:
    hook.answer = 503
    write(file, hook, other)
    async with telling(bus, file, tmp_path):
        await bus.publish(paused(1))
        await until(lambda: hook.asked >= 3 and len(other.got) == 1)
        await bus.publish(paused(2))
        await until(lambda: len(other.got) == 2)
        hook.answer = 200
        await until(lambda: len(hook.got) == 1)
    assert len(other.got) == 2
    assert hook.titles == [f"worldloop: {RUN} paused (and 1 more)"]  # what gathered meanwhile is one message


async def test_a_slow_service_delays_no_other(
    bus: MemoryBus, file: Path, hook: Webhook, other: Webhook, tmp_path: Path
) -> None:
    hook.slow = True
    write(file, hook, other)
    async with telling(bus, file, tmp_path):
        await bus.publish(paused(1))
        await until(lambda: hook.asked == 1)
        await bus.publish(paused(2))
        await until(lambda: len(other.got) == 2)
        assert hook.got == []
        hook.go.set()
        await until(lambda: len(hook.got) == 2)
    assert hook.asked == 2


async def test_what_was_not_taken_comes_again_after_a_restart(
    bus: MemoryBus, file: Path, hook: Webhook, tmp_path: Path
) -> None:
    hook.answer = 500
    write(file, hook)
    async with telling(bus, file, tmp_path):
        await bus.publish(paused())
        await until(lambda: hook.asked >= 1)
    hook.answer = 200
    async with telling(bus, file, tmp_path):
        await until(lambda: bool(hook.got))
    assert len(hook.got) == 1


async def test_alerts_that_come_together_are_one_message_and_an_end_does_not_wait(
    bus: MemoryBus, file: Path, hook: Webhook, tmp_path: Path
) -> None:
    write(file, hook)
    async with telling(bus, file, tmp_path, Pace(alerts_sec=3600, look_sec=0.02)):
        await bus.publish(alert(1))
        await until(lambda: len(hook.got) == 1)
        for ordinal in range(2, 30):
            await bus.publish(alert(ordinal))
        await bus.publish(RunFinished(run_id=RUN, status="failed", degraded=False, reason="no luck"))
        await until(lambda: len(hook.got) == 2)
    assert hook.titles == [f"worldloop: {RUN} alert: channel1", f"worldloop: {RUN} failed (and 28 more)"]
    assert "and 19 more before these" in hook.got[1]["message"]


async def test_alerts_are_told_once_their_time_has_come(
    bus: MemoryBus, file: Path, hook: Webhook, tmp_path: Path
) -> None:
    write(file, hook)
    async with telling(bus, file, tmp_path):
        await bus.publish(alert(1))
        await until(lambda: len(hook.got) == 1)
        await bus.publish(alert(2))
        await bus.publish(alert(3))
        await until(lambda: len(hook.got) == 2)
    assert hook.titles[1] == f"worldloop: {RUN} alert: channel3 (and 1 more)"


async def test_what_happened_long_ago_is_not_told(
    bus: MemoryBus, file: Path, hook: Webhook, tmp_path: Path
) -> None:
    await bus.publish(paused(1))  # before anyone was to be told
    write(file, hook)
    async with telling(bus, file, tmp_path):
        old = datetime.now(UTC) - timedelta(hours=2)
        bus.broker.put(encode(paused(2), source="/worldloop/gatekeeper", time=old))
        await bus.publish(paused(3))
        await until(lambda: bool(hook.got))
        await until(lambda: not bus.broker.queues["reporter", "reporter-events-notify-team"])
    assert hook.titles == [f"worldloop: {RUN} paused"]


async def test_a_service_that_stays_away_is_given_up_and_said_so(
    bus: MemoryBus, file: Path, hook: Webhook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hook.answer = 403
    write(file, hook)
    async with telling(bus, file, tmp_path, Pace(old_sec=0.3, retry_sec=(0.05,), look_sec=0.02)):
        await bus.publish(paused())
        await until(lambda: hook.asked > 1)
        await until(lambda: not bus.broker.queues["reporter", "reporter-events-notify-team"])
    assert "given up telling a service" in "".join(capsys.readouterr())


async def test_a_change_of_the_file_counts_without_a_restart(
    bus: MemoryBus, file: Path, hook: Webhook, other: Webhook, tmp_path: Path
) -> None:
    write(file, hook)
    async with telling(bus, file, tmp_path):
        write(file, hook, other)
        await until(lambda: len(bus.broker.wanted) == 2)
        await bus.publish(paused(1))
        await until(lambda: len(hook.got) == 1 and len(other.got) == 1)
        file.unlink()
        await until(lambda: not [t for t in asyncio.all_tasks() if "Line" in repr(t.get_coro())])


async def test_a_file_that_cannot_be_used_is_said_in_the_log_and_ends_nothing(
    bus: MemoryBus, file: Path, hook: Webhook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(f"urls: {{team: 'nosuch://{TOKEN}'}}")
    task = asyncio.create_task(Teller(bus, Runs(bus, Settings()), file, pace=QUICK).watch())
    await asyncio.sleep(0)
    said = ""
    while "nobody is told" not in said:
        await asyncio.sleep(0.01)
        said += "".join(capsys.readouterr())
    write(file, hook)
    await until(lambda: len(bus.broker.wanted) == 1)
    await bus.publish(paused())
    await until(lambda: bool(hook.got))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert "urls.team" in said
    assert TOKEN not in said


async def test_no_secret_reaches_a_log_line_whatever_happens(
    bus: MemoryBus, file: Path, hook: Webhook, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(state_dir=tmp_path / "state", log_level="debug")
    before = logging.getLogger().handlers
    try:
        logs.configure("reporter", settings)
        hook.answer = 500
        write(file, hook)
        bundle = tmp_path / "runs" / RUN
        (bundle / "Logs").mkdir(parents=True)
        async with telling(bus, file, tmp_path):
            await bus.publish(started(tmp_path))
            await bus.publish(paused(1))
            await until(lambda: hook.asked >= 2)
            hook.answer = 200
            await until(lambda: len(hook.got) == 1)
            hook.close()
            await bus.publish(paused(2))
            await asyncio.sleep(0.3)
    finally:
        logging.basicConfig(handlers=before, force=True)
    written = "".join(path.read_text() for path in tmp_path.rglob("*.jsonl")) + "".join(capfd.readouterr())
    assert "a service was not told" in written
    assert [secret for secret in SECRETS if secret in written] == []


def test_a_recipient_shows_no_secret(file: Path, hook: Webhook) -> None:
    write(file, hook)
    found = read(file)
    assert found is not None
    shown = repr(found) + repr(recipients(found, file)) + found.model_dump_json()
    assert [secret for secret in SECRETS if secret in shown] == []


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("urls: {team: [", "", "no YAML"),
        (f"urls: {{team: 'json://h/{TOKEN}'}}\nwhen: now", "", "no such key; there are urls, tell"),
        (f"urls: {{team: 'json://h/{TOKEN}'}}\ntell: [pause]", "tell.0", "'paused'"),
        ("urls: {}", "urls", "at least 1"),
        ("tell: [failed]", "urls", "required"),
        (f"urls: {{'slack://{TOKEN}': x}}", "urls", "a name has"),
        (f"urls: ['json://h/{TOKEN}']", "urls", "dictionary"),
        (f"urls: {{team: 'nosuch://{TOKEN}'}}", "urls.team", "does not know this kind"),
        (f"urls: {{team: {TOKEN}}}", "urls.team", "does not know this kind"),
        (f"urls: {{team: 'slack://{TOKEN}'}}", "urls.team", "Apprise"),
        (f"urls: {{team: 'mailto://{TOKEN}'}}", "urls.team", "Apprise"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_file_and_key_and_no_secret(
    file: Path,
    text: str,
    key: str,
    says: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file.write_text(text)
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigurationError) as raised:
        use(file)
    error = raised.value
    assert error.source == str(file)
    assert error.key == key
    assert says in str(error)
    assert TOKEN not in str(error) + caplog.text + "".join(capfd.readouterr())


def test_a_reporter_without_a_notification_file_does_not_import_apprise() -> None:
    import subprocess
    import sys

    code = "import sys, services.reporter.main, services.reporter.notify; sys.exit('apprise' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0


async def test_the_reason_of_a_failure_shows_no_part_of_the_url(file: Path, hook: Webhook) -> None:
    write(file, hook)
    hook.close()
    found = read(file)
    assert found is not None
    (recipient,) = recipients(found, file)
    problem = await recipient.send(trial("team"))
    assert problem is not None
    assert "Connection error" in problem
    assert "127.0.0.1" not in problem


def test_only_alerts_wait_and_only_after_a_message() -> None:
    said = notice(alert(1), [], Place(None, None))
    ended = notice(paused(), [], Place(None, None))
    assert said is not None
    assert ended is not None
    assert wait_sec([said], None, 60) == 0
    assert wait_sec([said], 20, 60) == 40
    assert wait_sec([said], 70, 60) == 0
    assert wait_sec([said, ended], 20, 60) == 0


async def test_services_that_do_not_answer_take_nothing_from_the_others(
    bus: MemoryBus, file: Path, hook: Webhook, other: Webhook, tmp_path: Path
) -> None:
    hook.slow = True
    many = min(32, (os.cpu_count() or 1) + 4) + 1  # more than a pool has threads
    urls = {f"stuck{number}": hook.url for number in range(many)} | {"team": other.url}
    file.write_text(yaml.safe_dump({"urls": urls}))
    async with telling(bus, file, tmp_path):
        await bus.publish(paused(1))
        await until(lambda: hook.asked == many and len(other.got) == 1)
        await bus.publish(paused(2))
        await until(lambda: len(other.got) == 2)
        hook.go.set()


async def test_a_service_that_did_not_answer_in_time_says_so(
    file: Path, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify_services, "SEND_SEC", 0.05)
    hook.slow = True
    write(file, hook)
    found = read(file)
    assert found is not None
    (recipient,) = recipients(found, file)
    assert await recipient.send(trial("team")) == "no answer within 0 s"
    assert await recipient.send(trial("team")) == "its last request has not come to an end"
    hook.go.set()


async def test_a_change_of_the_file_while_a_message_is_on_its_way_tells_nothing_twice(
    bus: MemoryBus, file: Path, hook: Webhook, tmp_path: Path
) -> None:
    hook.slow = True
    write(file, hook)
    async with telling(bus, file, tmp_path):
        await bus.publish(paused(1))
        await until(lambda: hook.asked == 1)
        write(file, hook, tell=["paused"])
        await asyncio.sleep(2 * QUICK.look_sec)
        hook.go.set()
        await until(lambda: not bus.broker.queues["reporter", "reporter-events-notify-team"])
        await bus.publish(paused(2))
        await until(lambda: len(hook.got) == 2)
    assert hook.asked == 2


@pytest.mark.parametrize(
    "text",
    [
        "[" * 2_000,
        "when: 2024-99-99",
        "{a: !!int x}",
        "{a: !!bool x}",
        "!!timestamp x",
        "\x00",
        "- 1: 2\n :",
    ],
)
def test_a_file_no_yaml_can_make_anything_of_is_an_error_like_any_other(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigurationError):
        read(file)


async def test_a_plugin_that_fails_with_a_secret_in_its_error_shows_none(
    file: Path, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    import apprise

    def notify(*_: object, **__: object) -> bool:
        raise OSError(f"POST /hooks/{TOKEN.upper()} failed")

    write(file, hook)
    found = read(file)
    assert found is not None
    (recipient,) = recipients(found, file)
    for broken in (apprise.Apprise, type(recipient._plugin)):
        with monkeypatch.context() as patch:
            patch.setattr(broken, "notify", notify)
            problem = await recipient.send(trial("team"))
        assert problem is not None
        assert TOKEN.lower() not in problem.lower()
