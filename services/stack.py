"""The embedded stack from outside: start it, end it, look at it. What runs inside is `services.supervisor`'s.

`<state_dir>/stack.json` says what runs: written by the supervisor alone, with each process's pid and time of
creation, so that nothing else is ever ended in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from pydantic import ValidationError

import services
from services import nats_server
from shared import logs
from shared.bus.jetstream import JetStreamBus
from shared.config import Config
from shared.errors import BusError, UsageError
from shared.events import SERVICES, Heartbeat
from shared.settings import Settings

NATS = "nats-server"
"""Name of the server among the stack's processes."""
START_SEC = 20.0
"""How long the server may take until it answers."""
CONNECT_SEC = 90.0
"""How long the services may take until their first heartbeat: importing torch on a busy machine is slow."""
GRACE_SEC = 10.0
"""Between asking a process to end and ending it."""
FAILING_STARTS = 3
"""Starts without having lived for a while that make a process a failing one."""


class Child(Config):
    """One process of the stack."""

    name: str
    pid: int
    created: float
    """Unix time of its creation: with the pid, its identity."""
    log: str
    """File with its output."""
    starts: int = 1
    """Times it was started since it last lived for a while."""
    problem: str | None = None
    """How its last life ended: exit code and last line of its log."""

    @property
    def alive(self) -> bool:
        """Whether this very process runs."""
        return find(self) is not None

    @property
    def failing(self) -> bool:
        """It dies as often as it is started."""
        return self.starts >= FAILING_STARTS


class StackState(Config):
    """What the stack consists of."""

    url: str
    """Address of the NATS server."""
    started: float
    """Unix time."""
    supervisor: Child
    children: tuple[Child, ...] = ()
    """The NATS server, then the services."""
    silent: tuple[str, ...] = ()
    """Services that gave no sign of life when `up` waited for them."""

    @property
    def alive(self) -> bool:
        """Whether the stack is looked after."""
        return self.supervisor.alive

    @property
    def problems(self) -> list[str]:
        """What does not work, a sentence each; names the process and its log."""
        found = []
        for child in self.children:
            if child.failing:
                found.append(f"{child.name} keeps dying ({child.problem}); see {child.log}")
            elif child.name in self.silent:
                found.append(f"{child.name} has not connected to {self.url}; see {child.log}")
        return found


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
        from services import supervisor

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


def state(settings: Settings) -> StackState | None:
    """The stack as last recorded; none if there is none. `alive` says whether it still is."""
    with contextlib.suppress(FileNotFoundError):
        try:
            return StackState.model_validate_json(state_file(settings).read_bytes())
        except ValidationError as error:
            raise UsageError(
                f"{state_file(settings)} is not readable ({error.error_count()} problems); end the processes "
                "of the stack by hand if there are any, and remove the file"
            ) from error
    return None


def state_file(settings: Settings) -> Path:
    """Where the supervisor records the stack."""
    return settings.state_dir / "stack.json"


def log_file(settings: Settings, name: str) -> Path:
    """Where a process's output goes."""
    return settings.state_dir / "logs" / f"{name}.log"


def find(child: Child) -> psutil.Process | None:
    """The process itself, if it still runs: same pid and same time of creation."""
    try:
        process = psutil.Process(child.pid)
        # not exactly equal: the kernel's clock may have been adjusted meanwhile
        same = abs(process.create_time() - child.created) < 1.0
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def end(children: Sequence[Child], *, grace_sec: float = GRACE_SEC) -> None:
    """Ask the processes to end, and end those that have not after the grace period."""
    processes = [process for child in children if (process := find(child)) is not None]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=grace_sec)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=grace_sec)


def environment(settings: Settings, url: str | None = None) -> dict[str, str]:
    """The environment of the stack's processes: ours, with the mark of the stack and without output roots."""
    ours = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    paths = (str(Path(services.__file__).parent.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep))
    ours |= {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, paths))),
        "WORLDLOOP_STACK": str(settings.state_dir.resolve()),
        "WORLDLOOP_STATE_DIR": str(settings.state_dir.resolve()),
        "WORLDLOOP_CACHE_DIR": str(settings.cache_dir.resolve()),
        "WORLDLOOP_HEARTBEAT_SEC": str(settings.heartbeat_sec),
        "WORLDLOOP_LOG_LEVEL": settings.log_level,
    }
    return ours | ({"WORLDLOOP_NATS_URL": url} if url is not None else {})


_NOT_INHERITED = ("WORLDLOOP_OUTPUT_ROOT", "RUN_BUNDLE_ROOT", "WORLDLOOP_NATS_URL")


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

    bus = await JetStreamBus.connect(running.url, wait_sec=START_SEC)
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
