"""A real reporter on a real server, killed while it tells."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from shared.bus.jetstream import JetStreamBus
from shared.events import RunPaused
from tests.conftest import NatsServer
from tests.unit.reporter.webhook import TOKEN, Webhook, hook

__all__ = ["hook"]

RUN = "20260101_000000"


def said(hook: Webhook) -> str:
    return "\n".join(message["message"] for message in hook.got)


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - what it waits for happens in other threads
        await asyncio.sleep(0.02)


async def waits(bus: JetStreamBus) -> None:
    """Wait until the service has its place in the log, which it makes once it tells, and has told all."""
    while not any(  # noqa: ASYNC110 - the server says it only when asked
        each.config.durable_name == "reporter-events-notify-team"
        and each.num_waiting
        and not (each.num_pending or each.num_ack_pending)
        for each in await bus._connection.js.consumers_info("WORLDLOOP_EVENTS")
    ):
        await asyncio.sleep(0.05)


async def test_a_reporter_that_is_killed_goes_on_telling_and_says_nothing_twice(
    fresh_nats_server: NatsServer, hook: Webhook, tmp_path: Path
) -> None:
    file = Path(os.environ["WORLDLOOP_NOTIFY_FILE"])
    file.write_text(f"urls:\n  team: {hook.url}\n")
    environment = os.environ | {"WORLDLOOP_NATS_URL": fresh_nats_server.url, "WORLDLOOP_PAGE_PORT": "0"}
    command = [sys.executable, "-m", "services.reporter.main"]
    bus = await JetStreamBus.connect(fresh_nats_server.url, source="gatekeeper")
    log = (tmp_path / "reporter.log").open("wb")

    def begin() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    reporter = begin()
    try:
        await waits(bus)
        await bus.publish(RunPaused(run_id=RUN, by="operator", reason="lunch", ordinal=1))
        await until(lambda: len(hook.got) == 1)
        hook.answer = 500
        await bus.publish(RunPaused(run_id=RUN, by="operator", reason="dinner", ordinal=2))
        await until(lambda: hook.asked == 2)
        reporter.terminate()  # what it holds is given back
        reporter.wait(60)
        hook.answer = 200
        await bus.publish(RunPaused(run_id=RUN, by="operator", reason="supper", ordinal=3))
        reporter = begin()
        await until(lambda: "supper" in said(hook))
        await waits(bus)  # killed between telling and that, it would tell it again
        reporter.kill()
        reporter.wait(60)
        reporter = begin()
        await waits(bus)
        await bus.publish(RunPaused(run_id=RUN, by="operator", reason="sleep", ordinal=4))
        await until(lambda: "sleep" in said(hook))
    finally:
        reporter.terminate()
        reporter.wait(60)
        log.close()
        await bus.close()
    assert [said(hook).count(word) for word in ("lunch", "dinner", "supper", "sleep")] == [1, 1, 1, 1]
    assert TOKEN not in (tmp_path / "reporter.log").read_text()
