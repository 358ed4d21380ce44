"""The process that was launched to train, and all that it starts: its marks, its output, its end."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog

from services.trainer import processes
from services.trainer.config import Policy
from services.trainer.core.guarding import ATTEMPT, RUN, STACK
from services.trainer.core.launch import device, tuning
from services.trainer.wire import Run
from shared.config import StageConfig
from shared.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

TAIL_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Launched:
    """A process that runs."""

    process: asyncio.subprocess.Process
    log_file: Path
    """Where it writes, and whatever it starts."""
    scratch: Path
    """Its temporary files."""


async def launch(
    line: Iterable[str],
    run: Run,
    settings: Settings,
    log_file: Path,
    scratch: Path,
    environment: Mapping[str, str],
    *,
    ranks: int,
    directory: str | None = None,
) -> Launched:
    """Start a process; returns as soon as it has a pid.

    Args:
        line: Its command line.
        run: What for.
        settings: Of this service.
        log_file: Where it is to write.
        scratch: See `scratch_for`.
        environment: What it is told besides whose it is.
        ranks: Processes that share this host's cores.
        directory: Where it works; none is here.

    Raises:
        OSError: It could not be started.
    """
    place = device(StageConfig.recorded(run.plan.parameters))
    try:
        with log_file.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *line,
                cwd=directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={
                    **os.environ,
                    **tuning(place, ranks, cores()),
                    STACK: str(settings.state_dir),
                    RUN: run.run_id,
                    ATTEMPT: f"{run.plan.stage}/{run.plan.attempt}",
                    "RUN_BUNDLE_ROOT": run.bundle,
                    "TMPDIR": str(scratch),
                    "PYTHONUNBUFFERED": "1",
                    **environment,
                },
            )
    except OSError:
        shutil.rmtree(scratch)
        raise
    return Launched(process, log_file, scratch)


class Launcher:
    """A launched process, of which the two kinds of training group are made.

    Args:
        run: What it was launched for.
        policy: The run's.
        launched: The process.
    """

    def __init__(self, run: Run, policy: Policy, launched: Launched) -> None:
        self.run_id, self.device = run.run_id, device(StageConfig.recorded(run.plan.parameters))
        self.policy, self.idle_since = policy, time.monotonic()
        self._launched, self._read_from = launched, 0
        self._exit = asyncio.ensure_future(launched.process.wait())

    @property
    def pid(self) -> int:
        """The process id."""
        return self._launched.process.pid

    @property
    def alive(self) -> bool:
        """Whether it lives."""
        return not self._exit.done()

    @property
    def exit_code(self) -> int | None:
        """None while it lives."""
        return self._exit.result() if self._exit.done() else None

    def on_exit(self, call: Callable[[], None]) -> None:
        """Have something called when it ends."""
        self._exit.add_done_callback(lambda _: call())

    def stderr(self) -> str:
        """The end of what was written since the last plan was handed over."""
        with self._launched.log_file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(self._read_from, size - TAIL_BYTES))
            return stream.read().decode(errors="replace")

    def _with_all(self, members: Iterable[psutil.Process]) -> list[psutil.Process]:
        """Those of the members that live, the process itself, and whatever they have started."""
        return processes.tree([*members, *(processes.alive([self.pid]) if self.alive else [])])

    async def _end(self, members: Iterable[psutil.Process]) -> None:
        """End processes, and wait until this one is gone."""
        if survivors := await processes.end(members, self.policy.kill_grace_sec):
            log.error("training processes could not be ended", pids=[each.pid for each in survivors])
        await asyncio.shield(self._exit)
        shutil.rmtree(self._launched.scratch, ignore_errors=True)


def scratch_of(settings: Settings) -> Path:
    """Where training processes put their temporary files, a directory for each launch."""
    return settings.state_dir / "tmp"


def scratch_for(settings: Settings) -> Path:
    """A new directory there."""
    path = scratch_of(settings) / secrets.token_hex(4)
    path.mkdir(parents=True)
    return path


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
