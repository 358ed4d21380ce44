"""What the end of a process group means, from its exit code and its last words."""

from __future__ import annotations

import re
from typing import Literal

Death = Literal["oom", "killed", "failed", "peer"]

OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|CUDA out of memory|MemoryError|can't allocate memory|Cannot allocate memory"
    r"|not enough memory|std::bad_alloc|CUBLAS_STATUS_ALLOC_FAILED"
)
SIGNALLED = re.compile(r"exitcode\s*:\s*(-\d+)")
"""torchrun's report of a rank that a signal ended."""
ROOT_CAUSE = "Root Cause (first observed failure)"
"""What torchrun puts above the report of the rank that failed first, at its end; it has ended the others."""
LOADER_KILLED = re.compile(r"DataLoader worker .* is killed by signal: Killed")
"""torch's report of a process that loads data."""
PEER = re.compile(
    r"Connection (closed|reset|refused|timed out)|Broken pipe|No route to host|Network is unreachable"
    r"|remote process exited|ncclRemoteError|Dist(Network|Store)Error|[Tt]imed out|client socket"
)
"""What gloo, NCCL and torch's store say of another host's rank that is not there any more."""
RAISED = re.compile(
    r"^(?:\[rank\d+\]: ?)?(?:worldloop: |(?!.*ChildFailedError)[\w.]*(?:Error|Exception)\b).*$", re.MULTILINE
)
"""The last line of a traceback, and our own errors' one; not torchrun's about its ranks."""
SIGKILL = -9
"""The exit code of a process that the kernel ended for want of memory, among others."""

TAIL = 6000
"""Characters of stderr that an event carries."""
ERRORS, ERROR = 3, 500
"""Errors before it that are carried along, and the most characters of each."""


def death(
    exit_code: int | None, stderr: str, *, oom_killed: bool = False, several_hosts: bool = False
) -> Death:
    """Why a process group is gone though it had not finished its plan.

    Args:
        exit_code: The launcher's; negative when a signal ended it.
        stderr: What launcher and ranks wrote since the plan began.
        oom_killed: The kernel ended processes for want of host memory meanwhile.
        several_hosts: Ranks of other hosts belong to the group.

    Returns:
        `oom` when a rank ran out of memory or was ended for it, `killed` when a signal ended the launcher or
        a rank otherwise (the fault of nothing but the surroundings), `peer` when its ranks only lost the
        connection to another host's, `failed` for everything else.
    """
    if OUT_OF_MEMORY.search(stderr):
        return "oom"
    signals = _signals(stderr)
    if exit_code is not None and exit_code < 0:
        signals.add(exit_code)
    if oom_killed and (SIGKILL in signals or LOADER_KILLED.search(stderr)):
        return "oom"
    if signals:
        return "killed"
    return "peer" if several_hosts and _only_lost_others(stderr) else "failed"


def _signals(stderr: str) -> set[int]:
    """What ended ranks, as negative exit codes.

    When a rank fails, torchrun ends the others with SIGTERM, and some abort for want of their peer: such a
    signal counts for the rank that failed first. A killed one may be found dead together with its peers, and
    come second.
    """
    root = stderr.rfind(ROOT_CAUSE)
    found = [(int(each[1]), each.start()) for each in SIGNALLED.finditer(stderr)]
    return {code for code, at in found if code == SIGKILL or at > root}


def _only_lost_others(stderr: str) -> bool:
    raised = RAISED.findall(stderr)
    return bool(raised) and all(PEER.search(each) for each in raised)


def tail(stderr: str) -> str:
    """The end of what was written, as much as an event carries, after the last errors that lie before it.

    The rank that failed first speaks first, and its peers and torchrun say much after it.
    """
    text = stderr.strip()
    if len(text) <= TAIL:
        return text
    raised = [each[:ERROR] for each in RAISED.findall(text[:-TAIL])[-ERRORS:]]
    return "\n".join((*raised, "[...] " + text[-TAIL:]))


def gave_up(stderr: str, *, hung: bool) -> str:
    """Last words of a process group that was relaunched in vain."""
    how = "hung" if hung else "was killed"
    return f"{stderr}\nThe training process {how}, and relaunching it did not help."


def last_words(stderr: str, *, oom_killed: bool) -> str:
    """Last words of a process group that failed; one that the kernel ended has none of its own."""
    return f"{stderr}\nThe kernel ended a training process: out of host memory." if oom_killed else stderr
