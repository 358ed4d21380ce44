"""Ending processes: asked first, killed after a grace period.

A process is a `psutil.Process`, which knows when its process was started: one that ended meanwhile, and whose
id another process has now, is never taken for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable

import psutil

KILLED_WITHIN_SEC = 5.0
"""A killed process is gone within this time, unless the kernel holds it."""
LOOK_SEC = 0.02


def alive(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes that have these ids now."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


def tree(roots: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those of the processes that live, and all their descendants."""
    found: dict[int, psutil.Process] = {}
    for root in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in (root, *root.children(recursive=True)):
                found[each.pid] = each
    return list(found.values())


def lives(process: psutil.Process) -> bool:
    """Whether it still runs; one that its parent has not taken notice of yet (a zombie) does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def end(processes: Iterable[psutil.Process], grace_sec: float) -> list[psutil.Process]:
    """End processes and wait until they are gone: TERM, then KILL for those that outlive the grace period.

    Returns:
        Those that live on: the kernel holds them (a driver's call that does not return), or forbids it.
    """
    left = [process for process in processes if lives(process)]
    left = await _signal(left, psutil.Process.terminate, grace_sec)
    return await _signal(left, psutil.Process.kill, KILLED_WITHIN_SEC)


async def _signal(
    processes: list[psutil.Process], send: Callable[[psutil.Process], None], timeout_sec: float
) -> list[psutil.Process]:
    """Send a signal and wait for the processes to end; those that have not in time."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            send(process)
    until = time.monotonic() + timeout_sec
    while (processes := [each for each in processes if lives(each)]) and time.monotonic() < until:  # noqa: ASYNC110 - they send no event
        await asyncio.sleep(LOOK_SEC)
    return processes
