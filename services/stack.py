"""The embedded stack from outside: start it, end it. What runs inside is `services.supervisor`'s."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from services import nats_server, supervisor
from services.keys.permissions import OPERATOR
from services.stack_state import (
    GRACE_SEC,
    NATS,
    StackState,
    end,
    environment,
    key_file,
    log_file,
    state,
    state_file,
)
from shared import logs
from shared.bus.jetstream import JetStreamBus
from shared.errors import BusError, UsageError
from shared.events import SERVICES, Heartbeat
from shared.settings import Settings

START_SEC = 20.0
"""How long the server may take until it answers."""
CONNECT_SEC = 90.0
"""How long the services may take until their first heartbeat: importing torch on a busy machine is slow."""


def up(
    settings: Settings,
    *,
    port: int | None = None,
    foreground: bool = False,
    commands: Mapping[str, Sequence[str]] | None = None,
) -> StackState:
    """Start the stack and wait until every service has connected; one that runs already is left as it is.

    Not from inside a running event loop.

    Args:
        settings: State directory, and what the services get.
        port: The server's port on the loopback interface; none takes the last one if it is free, else any.
        foreground: Be the supervisor: returns when the stack has ended, by a signal.
        commands: Service -> command line; none runs the five services.

    Returns:
        The stack; its `problems` say which services did not come up.

    Raises:
        ConfigurationError: There is no nats-server program.
        BusError: The server does not come up; names its log.
        UsageError: The stack runs on another port, or `foreground` was asked for while it runs.
    """
    running = state(settings)
    if running is not None and running.alive:
        if foreground or port not in (None, urlsplit(running.url).port):
            raise UsageError(f"the stack already runs at {running.url}; `worldloop down` ends it")
        return running
    nats_server.find()
    if commands is None:
        commands = {name: (sys.executable, "-m", f"services.{name}.main") for name in SERVICES}
    order = json.dumps({"port": port, "commands": {name: list(line) for name, line in commands.items()}})
    if foreground:
        logs.configure("supervisor", settings)
        return supervisor.Supervisor.ordered(settings, order).run()
    pid = _spawn_supervisor(settings, order)
    _wait_for_server(settings, pid)
    return asyncio.run(_heard(settings, [name for name in SERVICES if name in commands]))


def down(settings: Settings) -> list[str]:
    """End the stack: what `stack.json` names, and nothing else.

    Returns:
        What was ended, as `name (pid N)`; empty if nothing ran.
    """
    before = state(settings)
    if before is None:
        return []
    named = [child for child in (before.supervisor, *before.children) if child.alive]
    if before.supervisor.alive:
        end([before.supervisor], grace_sec=3 * GRACE_SEC)
    after = state(settings) or before
    end([child for child in (*before.children, *after.children) if child.alive])
    state_file(settings).unlink(missing_ok=True)
    return [f"{child.name} (pid {child.pid})" for child in named]


def _spawn_supervisor(settings: Settings, order: str) -> int:
    """Start the supervisor in a session of its own, so that it outlives the terminal."""
    log = log_file(settings, "supervisor")
    log.parent.mkdir(parents=True, exist_ok=True)
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "services.supervisor", order],
        environment(settings),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _wait_for_server(settings: Settings, supervisor: int) -> None:
    deadline = time.monotonic() + START_SEC
    while time.monotonic() < deadline:
        running = state(settings)
        if running is not None and running.alive and _answers(running.url):
            return
        if _has_exited(supervisor):  # perhaps because another `up` was faster: give that one a moment
            deadline = min(deadline, time.monotonic() + 2.0)
        time.sleep(0.05)
    logs_of = f"{log_file(settings, 'supervisor')} and {log_file(settings, NATS)}"
    raise BusError(f"the embedded NATS server does not come up; see {logs_of}")


def _answers(url: str) -> bool:
    address = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((address.hostname or "", address.port or 0)) == 0


def _has_exited(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:
        return True


async def _heard(settings: Settings, wanted: Sequence[str]) -> StackState:
    """Wait for a heartbeat of each service, but not for those that keep dying."""
    running = state(settings)
    assert running is not None
    silent = set(wanted)

    async def listen() -> None:
        async with contextlib.aclosing(bus.follow(("telemetry",))) as telemetry:
            async for record in telemetry:
                if isinstance(record.message, Heartbeat):
                    silent.discard(record.message.service)

    bus = await JetStreamBus.connect(running.url, wait_sec=START_SEC, key=key_file(settings, OPERATOR))
    listening = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(CONNECT_SEC):
            while silent - _failing(settings):  # noqa: ASYNC110 - half of what it waits for is in a file
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass  # `silent` says who
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await bus.close()
    running = state(settings) or running
    return running.model_copy(update={"silent": tuple(sorted(silent))})


def _failing(settings: Settings) -> set[str]:
    running = state(settings)
    return {child.name for child in running.children if child.failing} if running is not None else set()
