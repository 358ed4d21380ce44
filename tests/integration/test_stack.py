"""The embedded stack, with the real nats-server and small stand-ins for the services."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from services import stack, stack_state, supervisor
from shared.bus.jetstream import JetStreamBus
from shared.errors import BusError, UsageError
from shared.events import RunPaused
from shared.settings import Settings
from tests.conftest import NatsServer

SLEEPER = (sys.executable, "-c", "import time; time.sleep(600)")
LIVING = (sys.executable, str(Path(__file__).with_name("tiny_service.py")), "monitor")
DYING = (sys.executable, "-c", "raise SystemExit('no music today')")


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(state_dir=tmp_path / "state", cache_dir=tmp_path / "cache", heartbeat_sec=0.2)
    yield settings
    stack.down(settings)


def running(settings: Settings) -> stack_state.StackState:
    state = stack_state.state(settings)
    assert state is not None
    return state


def child(state: stack_state.StackState, name: str) -> stack_state.Child:
    return next(child for child in state.children if child.name == name)


def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it never came to that")


def comes_back(settings: Settings, name: str) -> stack_state.Child:
    """Kill a process of the stack, and wait for the one that replaces it."""
    before = child(running(settings), name)
    os.kill(before.pid, signal.SIGKILL)
    eventually(
        lambda: child(running(settings), name).pid != before.pid and child(running(settings), name).alive
    )
    return child(running(settings), name)


def test_up_starts_server_and_services_and_down_ends_exactly_those(settings: Settings) -> None:
    bystander = subprocess.Popen(SLEEPER)
    try:
        state = stack.up(settings, commands={"sleeper": SLEEPER})
        assert [c.name for c in state.children] == ["nats-server", "sleeper"]
        assert state.alive
        assert not state.problems
        ended = stack.down(settings)
        assert ended == [f"{c.name} (pid {c.pid})" for c in (state.supervisor, *state.children)]
        assert not any(c.alive for c in (state.supervisor, *state.children))
        assert stack_state.state(settings) is None
        assert stack.down(settings) == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_up_waits_for_the_services_and_gives_them_the_mark_of_the_stack(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLDLOOP_OUTPUT_ROOT", "/somewhere")
    monkeypatch.setenv("RUN_BUNDLE_ROOT", "/somewhere/else")
    state = stack.up(settings, commands={"monitor": LIVING})
    assert not state.problems
    marks = json.loads((settings.state_dir / "marks.json").read_text())
    assert marks["WORLDLOOP_STACK"] == str(settings.state_dir)
    assert marks["WORLDLOOP_NATS_URL"] == state.url
    assert marks["WORLDLOOP_NATS_KEY"] == str(stack_state.key_file(settings, "monitor"))
    assert "WORLDLOOP_OUTPUT_ROOT" not in marks
    assert "RUN_BUNDLE_ROOT" not in marks
    again = stack.up(settings, commands={"monitor": LIVING})
    assert [c.pid for c in again.children] == [c.pid for c in state.children]
    stack.down(settings)
    assert stack_state.log_file(settings, "monitor").read_text().splitlines()[-1].endswith("stopped")


async def test_a_killed_server_comes_back_on_its_port_with_what_it_held(settings: Settings) -> None:
    import asyncio

    state = await asyncio.to_thread(stack.up, settings, commands={"sleeper": SLEEPER})
    bus = await JetStreamBus.connect(state.url, key=stack_state.key_file(settings, "gatekeeper"))
    try:
        await bus.publish(RunPaused(run_id="20260101_000000", reason="test", by="operator", ordinal=1))
        await asyncio.to_thread(comes_back, settings, "nats-server")
        assert [record.sequence for record in await bus.events()] == [1]
        assert running(settings).url == state.url
    finally:
        await bus.close()


async def test_what_the_server_kept_before_it_had_accounts_is_still_there(settings: Settings) -> None:
    import asyncio

    settings.state_dir.mkdir(parents=True)
    server = NatsServer(settings.state_dir)
    server.start()
    try:
        bus = await JetStreamBus.connect(server.url)
        await bus.publish(RunPaused(run_id="20260101_000000", reason="test", by="operator", ordinal=1))
        await bus.close()
    finally:
        server.stop()
    state = await asyncio.to_thread(stack.up, settings, commands={"sleeper": SLEEPER})
    bus = await JetStreamBus.connect(state.url, key=stack_state.key_file(settings, "gatekeeper"))
    try:
        assert [record.sequence for record in await bus.events()] == [1]
    finally:
        await bus.close()


async def test_nobody_else_on_the_machine_gets_into_the_stack(settings: Settings) -> None:
    import asyncio

    state = await asyncio.to_thread(stack.up, settings, commands={"sleeper": SLEEPER})
    with pytest.raises(BusError, match="lets nobody in without a key"):
        await JetStreamBus.connect(state.url)
    keys = stack_state.key_file(settings, "operator").parent
    assert [path.stat().st_mode & 0o777 for path in (settings.state_dir, keys)] == [0o700, 0o700]
    assert {path.stat().st_mode & 0o777 for path in keys.glob("*.nk")} == {0o600}
    before = {path: path.read_text() for path in keys.iterdir()}
    await asyncio.to_thread(stack.down, settings)
    again = await asyncio.to_thread(stack.up, settings, commands={"sleeper": SLEEPER})
    assert {path: path.read_text() for path in keys.iterdir()} == before
    assert again.url == state.url  # so that those who follow it find it again


def test_a_killed_service_comes_back_and_the_others_go_on(settings: Settings) -> None:
    state = stack.up(settings, commands={"sleeper": SLEEPER, "other": SLEEPER})
    assert comes_back(settings, "sleeper").problem == "exit code -9: no output"
    assert child(running(settings), "other") == child(state, "other")


def test_a_service_that_keeps_dying_is_shown_with_its_last_words_and_its_log(settings: Settings) -> None:
    state = stack.up(settings, commands={"sleeper": SLEEPER, "monitor": DYING})
    log = stack_state.log_file(settings, "monitor")
    assert state.problems == [f"monitor keeps dying (exit code 1: no music today); see {log}"]
    assert child(state, "sleeper").alive


def test_after_a_killed_supervisor_up_ends_its_leftovers_and_keeps_the_port(settings: Settings) -> None:
    first = stack.up(settings, commands={"sleeper": SLEEPER})
    os.kill(first.supervisor.pid, signal.SIGKILL)
    eventually(lambda: not running(settings).alive)
    assert child(first, "sleeper").alive
    second = stack.up(settings, commands={"sleeper": SLEEPER})
    assert second.url == first.url
    assert not any(c.alive for c in first.children)
    assert all(c.alive for c in second.children)


def test_down_after_a_killed_supervisor_ends_its_leftovers(settings: Settings) -> None:
    state = stack.up(settings, commands={"sleeper": SLEEPER})
    os.kill(state.supervisor.pid, signal.SIGKILL)
    eventually(lambda: not running(settings).alive)
    assert stack.down(settings) == [f"{c.name} (pid {c.pid})" for c in state.children]
    assert not any(c.alive for c in state.children)


def test_a_process_that_got_a_recorded_pid_later_is_left_alone(settings: Settings) -> None:
    bystander = subprocess.Popen(SLEEPER)
    try:
        created = psutil.Process(bystander.pid).create_time()
        stale = stack_state.Child(name="trainer", pid=bystander.pid, created=created - 3600, log="-")
        state = stack_state.StackState(
            url="nats://127.0.0.1:1",
            started=0,
            supervisor=stale.model_copy(update={"name": "supervisor"}),
            children=(stale,),
        )
        settings.state_dir.mkdir(parents=True)
        stack_state.state_file(settings).write_text(state.model_dump_json())
        assert not state.alive
        assert stack.down(settings) == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_there_is_one_supervisor_per_state_directory(settings: Settings) -> None:
    state = stack.up(settings, commands={"sleeper": SLEEPER})
    with pytest.raises(UsageError, match="another supervisor"):
        supervisor.Supervisor(settings, None, {}).run()
    with pytest.raises(UsageError, match="already runs"):
        stack.up(settings, foreground=True)
    assert child(running(settings), "sleeper") == child(state, "sleeper")
