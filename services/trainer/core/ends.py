"""What the end of a process group means, from its exit code and its last words."""

from __future__ import annotations

import re
from typing import Literal

Death = Literal["oom", "killed", "failed"]

OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|CUDA out of memory|MemoryError|can't allocate memory|Cannot allocate memory"
    r"|not enough memory|std::bad_alloc|CUBLAS_STATUS_ALLOC_FAILED"
)
SIGNALLED = re.compile(r"exitcode\s*:\s*-\d+")
"""torchrun's report of a rank that a signal ended."""

TAIL = 6000
"""Characters of stderr that an event carries."""


def death(exit_code: int | None, stderr: str) -> Death:
    """Why a process group is gone though it had not finished its plan.

    Args:
        exit_code: The launcher's; negative when a signal ended it.
        stderr: What launcher and ranks wrote since the plan began.

    Returns:
        `oom` when a rank ran out of memory, `killed` when a signal ended the launcher or a rank (the fault of
        nothing but the surroundings), `failed` for everything else.
    """
    if OUT_OF_MEMORY.search(stderr):
        return "oom"
    if (exit_code is not None and exit_code < 0) or SIGNALLED.search(stderr):
        return "killed"
    return "failed"


def tail(stderr: str) -> str:
    """The end of what was written, as much as an event carries."""
    text = stderr.strip()
    return text if len(text) <= TAIL else "[...] " + text[-TAIL:]


def gave_up(stderr: str, *, hung: bool) -> str:
    """Last words of a process group that was relaunched in vain."""
    how = "hung" if hung else "was killed"
    return f"{stderr}\nThe training process {how}, and relaunching it did not help."
