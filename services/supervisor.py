"""The supervisor of the embedded stack: starts the NATS server and the services, restarts whatever dies.

A process of its own (`python -m services.supervisor`), one per state directory. It knows nothing of runs:
that a service which was killed goes on where it was is the service's own doing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog

from services import nats_server, stack_state
from services.keys import directory
from services.keys.permissions import OPERATOR
from services.keys.server_file import ACCOUNT
from shared import logs
from shared.bundle import write_atomic
from shared.errors import UsageError, WorldloopError
from shared.settings import Settings

POLL_SEC = 0.05
FIRST_BACKOFF_SEC = 0.2
"""Before the first restart; doubled with each further one, up to `MAX_BACKOFF_SEC`."""
MAX_BACKOFF_SEC = 5.0
SETTLED_SEC = 30.0
"""A process that lived so long starts again with the first back-off."""
MAX_LOG_BYTES = 8 * 2**20
"""An output file larger than this when its process starts becomes `<name>.1.log`."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Life:
    """One process that is kept alive."""

    name: str
    command: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    created: float = 0.0
    born: float = 0.0
    """Monotonic time of the start."""
    next_start: float = 0.0
    """Monotonic time before which it is not started again."""
    starts: int = 0
    problem: str | None = None
    pid: int = 0

    def child(self) -> stack_state.Child:
        """The same, as the state file has it."""
        return stack_state.Child(
            name=self.name,
            pid=self.pid,
            created=self.created,
            log=str(self.log),
            starts=self.starts,
            problem=self.problem,
        )


class Supervisor:
    """Keeps the stack of one state directory alive until it is told to stop.

    Args:
        settings: State directory, and what the services get.
        port: The server's port; none takes the last one if it is free, else any.
        commands: Service -> command line.
    """

    def __init__(self, settings: Settings, port: int | None, commands: Mapping[str, Sequence[str]]) -> None:
        self._settings, self._port, self._commands = settings, port, commands
        self._stop = threading.Event()
        self._lives: list[_Life] = []
        self._state: stack_state.StackState | None = None

    @classmethod
    def ordered(cls, settings: Settings, order: str) -> Supervisor:
        """A supervisor from its order as JSON: `{"port": ..., "commands": {name: [...]}}`."""
        values = json.loads(order)
        return cls(settings, values["port"], values["commands"])

    def run(self) -> stack_state.StackState:
        """Start everything and keep it alive until SIGTERM or SIGINT, then end it.

        Raises:
            UsageError: Another supervisor looks after this state directory.
        """
        with self._lock():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self._stop.set())
            self._end_leftovers()
            try:
                self._start_all()
                while not self._stop.wait(POLL_SEC):
                    self._look()
            finally:
                self._end_all()
        assert self._state is not None
        return self._state

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        import fcntl

        path = self._settings.state_dir / "stack.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o700)  # keys, logs and the server's store are for this user alone
        with path.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"another supervisor holds {path}; `worldloop down` ends it") from None
            yield

    def _end_leftovers(self) -> None:
        """End what a supervisor that was killed has left behind."""
        last = stack_state.state(self._settings)
        if last is None:
            return
        left = [child for child in last.children if child.alive]
        if left:
            log.warning("ending what the last supervisor left", processes=[f"{c.name} {c.pid}" for c in left])
            stack_state.end(left)

    def _start_all(self) -> None:
        settings = self._settings
        shutil.rmtree(stack_state.scratch(settings), ignore_errors=True)
        port = self._port or nats_server.last_port(settings.state_dir) or nats_server.free_port()
        keys = stack_state.key_file(settings, OPERATOR).parent
        directory.make_users(keys)
        config = nats_server.configure(settings.state_dir, port, [f"{keys.name}/{directory.AUTH}"])
        nats_server.adopt(settings.state_dir, ACCOUNT)
        me = stack_state.Child(
            name="supervisor",
            pid=os.getpid(),
            created=psutil.Process().create_time(),
            log=str(stack_state.log_file(settings, "supervisor")),
        )
        self._state = stack_state.StackState(
            url=f"nats://127.0.0.1:{port}", started=time.time(), supervisor=me
        )
        commands = {stack_state.NATS: (str(nats_server.find()), "-c", str(config)), **self._commands}
        for name, command in commands.items():
            life = _Life(name, command, stack_state.log_file(settings, name))
            self._lives.append(life)
            self._start(life)
        log.info("started", url=self._state.url)

    def _look(self) -> None:
        """Take note of what died, and start again what is due."""
        now = time.monotonic()
        for life in self._lives:
            if life.process is not None and (code := life.process.poll()) is not None:
                if now - life.born >= SETTLED_SEC:
                    life.starts = 1
                life.process, life.problem = None, f"exit code {code}: {_last_line(life.log)}"
                life.next_start = now + min(FIRST_BACKOFF_SEC * 2 ** (life.starts - 1), MAX_BACKOFF_SEC)
                log.warning("a process died", name=life.name, problem=life.problem)
                self._record()
            elif life.process is None and now >= life.next_start:
                self._start(life)
            elif life.process is not None and life.starts > 1 and now - life.born >= SETTLED_SEC:
                life.starts, life.problem = 1, None
                self._record()

    def _start(self, life: _Life) -> None:
        assert self._state is not None
        for folder in (life.log.parent, stack_state.scratch(self._settings)):
            folder.mkdir(parents=True, exist_ok=True)
        if life.log.exists() and life.log.stat().st_size > MAX_LOG_BYTES:
            life.log.replace(life.log.with_suffix(".1.log"))
        environment = stack_state.environment(self._settings, self._state.url, life.name)
        if life.name == stack_state.NATS:
            environment = nats_server.environment(environment)
        with life.log.open("ab") as output:
            life.process = subprocess.Popen(
                life.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._settings.state_dir,
                env=environment,
                start_new_session=True,  # a Ctrl-C in the terminal is not for them
            )
        life.pid, life.born, life.starts = life.process.pid, time.monotonic(), life.starts + 1
        with contextlib.suppress(psutil.NoSuchProcess):  # gone already: the next look sees it
            life.created = psutil.Process(life.pid).create_time()
        self._record()
        log.info("started a process", name=life.name, pid=life.pid)

    def _record(self) -> None:
        assert self._state is not None
        children = tuple(life.child() for life in self._lives)
        self._state = self._state.model_copy(update={"children": children})
        try:
            write_atomic(stack_state.state_file(self._settings), self._state.model_dump_json(indent=2) + "\n")
        except OSError as error:  # a full disk is no reason to end the stack
            log.error("the state file cannot be written", problem=str(error))  # noqa: TRY400

    def _end_all(self) -> None:
        """The services first, so that they can still say goodbye to the server."""
        log.info("ending the stack")
        lives = [life for life in self._lives if life.process is not None]
        for part in (
            [life for life in lives if life.name != stack_state.NATS],
            [life for life in lives if life.name == stack_state.NATS],
        ):
            stack_state.end([life.child() for life in part])
            for life in part:
                if life.process is not None:
                    life.process.wait()
        stack_state.state_file(self._settings).unlink(missing_ok=True)


def _last_line(path: Path) -> str:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 4096))
        lines = stream.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def main() -> None:
    """Be the supervisor of `WORLDLOOP_STATE_DIR`; the order is the only argument."""
    settings = Settings()
    logs.configure("supervisor", settings)
    try:
        Supervisor.ordered(settings, sys.argv[1]).run()
    except WorldloopError as error:
        log.critical("cannot supervise", problem=str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
