"""What the embedded stack consists of, which of it is alive, and how it is ended.

`<state_dir>/stack.json` says what runs: written by the supervisor alone, with each process's pid and time of
creation, so that nothing else is ever ended in its place.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import psutil
from pydantic import ValidationError

import services
from shared.config import Config
from shared.errors import UsageError
from shared.settings import Settings

NATS = "nats-server"
"""Name of the server among the stack's processes."""
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


def key_file(settings: Settings, user: str) -> Path:
    """The key by which the stack's own server knows a user (`services.keys`)."""
    return settings.state_dir / "keys" / f"{user}.nk"


def scratch(settings: Settings) -> Path:
    """Where the stack's processes put temporary files; a new stack begins with none."""
    return settings.state_dir / "scratch"


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


def environment(settings: Settings, url: str | None = None, user: str = "") -> dict[str, str]:
    """The environment of the stack's processes: ours, with the mark of the stack and without output roots.

    Args:
        settings: Those of the stack.
        url: Address of its server; none for the supervisor itself.
        user: Whose key the process gets; a process that is no user of the server gets none.
    """
    ours = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    paths = (str(Path(services.__file__).parent.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep))
    ours |= {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, paths))),
        "WORLDLOOP_STACK": str(settings.state_dir.resolve()),
        "WORLDLOOP_STATE_DIR": str(settings.state_dir.resolve()),
        "WORLDLOOP_CACHE_DIR": str(settings.cache_dir.resolve()),
        "WORLDLOOP_NOTIFY_FILE": str(settings.notify_file.absolute()),
        "WORLDLOOP_HEARTBEAT_SEC": str(settings.heartbeat_sec),
        "WORLDLOOP_LOG_LEVEL": settings.log_level,
        "TMPDIR": str(scratch(settings).resolve()),
    }
    if url is not None:
        ours["WORLDLOOP_NATS_URL"] = url
    if (key := key_file(settings, user)).exists():
        ours["WORLDLOOP_NATS_KEY"] = str(key.resolve())
    return ours


_NOT_INHERITED = (
    "WORLDLOOP_OUTPUT_ROOT",
    "RUN_BUNDLE_ROOT",
    "WORLDLOOP_NATS_URL",
    "WORLDLOOP_NATS_KEY",
    "WORLDLOOP_NATS_CA",
)
