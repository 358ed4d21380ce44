"""What the end of a process group means, from its exit code and its last words."""

from __future__ import annotations

import re
from typing import Literal

Death = Literal["oom", "killed", "failed"]

OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|CUDA out of memory|MemoryError|can't allocate memory|Cannot allocate memory"
    r"|not enough memory|std::bad_alloc|CUBLAS_STATUS_ALLOC_FAILED"
)
SIGNALLED = re.compile(r"exitcode\s*:\s*(-\d+)")
"""torchrun's report of a rank that a signal ended."""
LOADER_KILLED = re.compile(r"DataLoader worker .* is killed by signal: Killed")
"""torch's report of a process that loads data."""
SIGKILL = -9
"""The exit code of a process that the kernel ended for want of memory, among others."""

TAIL = 6000
"""Characters of stderr that an event carries."""


def death(exit_code: int | None, stderr: str, *, oom_killed: bool = False) -> Death:
    """Why a process group is gone though it had not finished its plan.

    Args:
        exit_code: The launcher's; negative when a signal ended it.
        stderr: What launcher and ranks wrote since the plan began.
        oom_killed: The kernel ended processes for want of host memory meanwhile.

    Returns:
        `oom` when a rank ran out of memory or was ended for it, `killed` when a signal ended the launcher or
        a rank otherwise (the fault of nothing but the surroundings), `failed` for everything else.
    """
    if OUT_OF_MEMORY.search(stderr):
        return "oom"
    signals = {int(found) for found in SIGNALLED.findall(stderr)}
    if exit_code is not None and exit_code < 0:
        signals.add(exit_code)
    if oom_killed and (SIGKILL in signals or LOADER_KILLED.search(stderr)):
        return "oom"
    return "killed" if signals else "failed"


def tail(stderr: str) -> str:
    """The end of what was written, as much as an event carries."""
    text = stderr.strip()
    return text if len(text) <= TAIL else "[...] " + text[-TAIL:]


def gave_up(stderr: str, *, hung: bool) -> str:
    """Last words of a process group that was relaunched in vain."""
    how = "hung" if hung else "was killed"
    return f"{stderr}\nThe training process {how}, and relaunching it did not help."


def last_words(stderr: str, *, oom_killed: bool) -> str:
    """Last words of a process group that failed; one that the kernel ended has none of its own."""
    return f"{stderr}\nThe kernel ended a training process: out of host memory." if oom_killed else stderr
