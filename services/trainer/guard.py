"""The guard: one training launcher may be alive; others of this stack are ended, strangers are reported."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

import psutil
import structlog

from services.trainer import processes
from services.trainer.core.guarding import RUN, Candidate, is_launcher, owner
from shared.events import RUN_ID, LauncherKilled

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

ARGUMENTS = 400
"""Characters of a command line that an event carries."""


@dataclass(frozen=True, slots=True)
class Extra:
    """A training launcher that is not the current one."""

    process: psutil.Process
    candidate: Candidate
    ours: bool


class Guard:
    """Looks for training launchers.

    Args:
        stack: State directory of this stack, the mark in the environment of what it starts.
    """

    def __init__(self, stack: Path) -> None:
        self._stack = str(stack)
        self._reported: set[tuple[int, float]] = set()

    async def sweep(
        self, run_id: str, *, current: int | None, why: str, end: bool, grace_sec: float
    ) -> list[LauncherKilled]:
        """End every training launcher of this stack but the current one.

        Args:
            run_id: Run that an event is filed under when the process bears no run's mark.
            current: Pid of the launcher that may live, with its descendants.
            why: For the events.
            end: False reports only.
            grace_sec: Between TERM and KILL.

        Returns:
            An event for each that was ended.
        """
        extras = await asyncio.to_thread(self._find, current)
        ended = [extra for extra in extras if extra.ours and end]
        for extra in extras:
            if extra not in ended:
                self._report(extra)
        events = [_event(extra, run_id, why) for extra in ended]
        await processes.end(processes.tree(extra.process.pid for extra in ended), grace_sec)
        return events

    def _find(self, current: int | None) -> list[Extra]:
        spared = {each.pid for each in processes.tree([current])} if current is not None else set()
        found: dict[int, Extra] = {}
        parents: dict[int, int] = {}
        for process in psutil.process_iter():
            try:
                if process.pid in spared or not is_launcher(line := process.cmdline()):
                    continue
                if os.name == "posix" and process.uids().real != os.getuid():
                    continue
                candidate = Candidate(process.pid, line, process.environ(), process.cwd())
                parents[process.pid] = process.ppid()
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            ours = owner(candidate, stack=self._stack, checkout=str(Path.cwd())) == "ours"
            found[process.pid] = Extra(process, candidate, ours)
        # the ranks of a launcher go with it
        return [extra for pid, extra in found.items() if parents[pid] not in found]

    def _report(self, extra: Extra) -> None:
        key = extra.process.pid, extra.process.create_time()
        if key not in self._reported:
            self._reported.add(key)
            log.warning(
                "another training launcher is alive and was left alone",
                pid=extra.process.pid,
                command=" ".join(extra.candidate.command_line)[:ARGUMENTS],
            )


def _event(extra: Extra, run_id: str, why: str) -> LauncherKilled:
    marked = extra.candidate.environment.get(RUN, "")
    return LauncherKilled(
        run_id=marked if RUN_ID.fullmatch(marked) else run_id,
        pid=extra.process.pid,
        command_line=" ".join(extra.candidate.command_line)[:ARGUMENTS],
        why=why,
        started_at=extra.process.create_time(),
    )
