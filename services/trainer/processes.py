"""Ending processes: asked first, killed after a grace period."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable

import psutil

KILLED_WITHIN_SEC = 5.0
"""A killed process is gone within this time, unless the kernel holds it."""
LOOK_SEC = 0.02


def tree(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes with these ids that live, and all their descendants."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            for each in (process, *process.children(recursive=True)):
                found[each.pid] = each
    return list(found.values())


def lives(process: psutil.Process) -> bool:
    """Whether it still runs; one that its parent has not taken notice of yet (a zombie) does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def end(processes: Iterable[psutil.Process], grace_sec: float) -> None:
    """End processes and wait until they are gone: TERM, then KILL for those that outlive the grace period."""
    alive = [process for process in processes if lives(process)]
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    alive = await _wait(alive, grace_sec)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    await _wait(alive, KILLED_WITHIN_SEC)


async def _wait(processes: list[psutil.Process], timeout_sec: float) -> list[psutil.Process]:
    """Wait for processes to end; those that have not in time."""
    until = time.monotonic() + timeout_sec
    while (processes := [each for each in processes if lives(each)]) and time.monotonic() < until:  # noqa: ASYNC110 - they send no event
        await asyncio.sleep(LOOK_SEC)
    return processes
