"""The guard: one training launcher may be alive; others of this stack are ended, strangers are reported."""

from __future__ import annotations

import os
from asyncio import to_thread
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil
import structlog

from services.trainer import processes
from services.trainer.core.guarding import RUN, SCRIPTS, STACK, Mark, entry, is_launcher, ours
from services.trainer.core.launch import ENTRY
from services.trainer.sight import directory, same, seen
from shared.events import RUN_ID, LauncherKilled

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

ARGUMENTS = 400
"""Characters of a command line that an event carries."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Launcher:
    """A process that runs a stage entry point: a launcher, or a rank of one."""

    process: psutil.Process
    command_line: str
    run: str
    """The run whose mark it bears, empty without one."""
    directory: str | None
    """Its working directory, none if it cannot be read."""
    same_user: bool
    ours: bool
    """Whether this stack may end it."""


@dataclass(frozen=True, slots=True)
class Swept:
    """What a look at the launchers came to."""

    events: list[LauncherKilled] = field(default_factory=list)
    """One for each launcher that was ended."""
    pids: set[int] = field(default_factory=set)
    """Of the launchers that were ended and all their descendants."""


class Guard:
    """Looks for training launchers.

    Args:
        stack: State directory of this stack, the mark in the environment of what it starts.
    """

    def __init__(self, stack: Path) -> None:
        self._stack = stack
        self._reported: set[tuple[int, float]] = set()

    async def sweep(
        self,
        run_id: str,
        *,
        current: int | None,
        checkout: Path | None,
        why: str,
        end: bool,
        grace_sec: float,
    ) -> Swept:
        """End every training launcher of this stack but the current one, with its descendants.

        Args:
            run_id: Run that an event is filed under when the process bears no run's mark.
            current: Pid of the launcher that may live, with its descendants.
            checkout: Checkout that the run trains in, whose unmarked launchers are this stack's too.
            why: For the events.
            end: False reports only.
            grace_sec: Between TERM and KILL.
        """
        extras = await to_thread(self._find, current, checkout)
        wanted = [extra for extra in extras if extra.ours and end]
        for extra in extras:
            if extra not in wanted:
                self._report(extra, "another training launcher is alive and was left alone")
        members = processes.tree(extra.process for extra in wanted)
        survivors = set(await processes.end(members, grace_sec))
        ended = [extra for extra in wanted if extra.process not in survivors]
        for extra in wanted:
            if extra.process in survivors:
                self._report(extra, "a training launcher could not be ended")
        events = [_event(extra, run_id, why) for extra in ended]
        return Swept(events, {each.pid for each in members if each not in survivors})

    def _find(self, current: int | None, checkout: Path | None) -> list[Launcher]:
        """The launchers that are alive, without their own ranks; whoever started this process is none."""
        this = psutil.Process()
        spared = {this, *this.parents()}
        if current is not None:
            spared |= set(processes.tree(processes.alive([current])))
        found: dict[int, Launcher] = {}
        parents: dict[int, int] = {}
        for pid in psutil.pids():
            try:
                process = psutil.Process(pid)
                extra = None if process in spared else launcher(process, self._stack, checkout)
                if extra is not None:
                    found[pid], parents[pid] = extra, process.ppid()
            except psutil.NoSuchProcess:
                continue
        # the ranks of a launcher go, or stay, with it
        return [
            extra
            for pid, extra in found.items()
            if (parent := found.get(parents[pid])) is None or parent.ours != extra.ours
        ]

    def _report(self, extra: Launcher, what: str) -> None:
        """Say it once for each process."""
        key = extra.process.pid, extra.process.create_time()
        if key not in self._reported:
            self._reported.add(key)
            log.warning(
                what,
                pid=extra.process.pid,
                command=extra.command_line,
                directory=extra.directory,
                same_user=extra.same_user,
            )


def launcher(process: psutil.Process, stack: Path, checkout: Path | None) -> Launcher | None:
    """What the system tells about a process, if it is a training launcher.

    Args:
        process: Any; a zombie runs nothing, and one whose command line cannot be read is taken for none.
        stack: State directory of this stack.
        checkout: As `Guard.sweep` takes it.

    Raises:
        psutil.NoSuchProcess: It is gone.
    """
    line: list[str] = _readable(process.cmdline, list[str]())
    word = entry(line)
    if word is None:
        return None
    place = _readable(process.cwd, None)
    if not is_launcher(word if word == ENTRY or place is None else str(Path(place, word).resolve())):
        return None
    environment = _readable(process.environ, None)
    same_user = os.name != "posix" or process.uids().real == os.getuid()
    return Launcher(
        process,
        " ".join(line)[:ARGUMENTS],
        run=(environment or {}).get(RUN, ""),
        directory=place,
        same_user=same_user,
        ours=ours(
            same_user=same_user,
            mark=_mark(process, environment, stack),
            in_checkout=checkout is not None and _in_checkout(process, word, checkout),
        ),
    )


def _mark(process: psutil.Process, environment: Mapping[str, str] | None, stack: Path) -> Mark:
    if environment is None:
        return "unreadable"
    if STACK not in environment:
        return "none"
    return "this stack" if same(seen(process, environment[STACK]), stack) else "another stack"


def _in_checkout(process: psutil.Process, word: str, checkout: Path) -> bool:
    try:
        place, script = directory(process), seen(process, word)
    except psutil.AccessDenied:
        return False
    return same(place, checkout) or any(same(script, Path(f"{checkout}{each}")) for each in SCRIPTS)


def _readable(read: Callable[[], T], otherwise: T) -> T:
    """What the system says, `otherwise` where it may not be asked."""
    try:
        return read()
    except psutil.AccessDenied:
        return otherwise


def _event(extra: Launcher, run_id: str, why: str) -> LauncherKilled:
    return LauncherKilled(
        run_id=extra.run if RUN_ID.fullmatch(extra.run) else run_id,
        pid=extra.process.pid,
        command_line=extra.command_line,
        why=why,
        started_at=extra.process.create_time(),
    )
