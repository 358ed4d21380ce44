"""Whether the kernel ended a process of ours for want of host memory.

A process that the kernel ends for that leaves no last words: it looks like any other that was killed. The
trainer's control group (v2), in which its ranks run too, counts such ends in `memory.events.local`; the
counter rises before the process dies. Groups below it, such as other people's sessions, count for themselves.
"""

from __future__ import annotations

from pathlib import Path

MOUNT, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
EVENTS = "memory.events.local"


def oom_kills(mount: Path = MOUNT, membership: Path = MEMBERSHIP) -> int | None:
    """Processes of this process's control group that the kernel ended for want of memory, ever.

    Args:
        mount: Where the v2 hierarchy is mounted.
        membership: The file that says which group this process is in.

    Returns:
        None where it is not counted: another system, Linux before 5.2, control groups v1, no memory
        controller.
    """
    try:
        lines = membership.read_text().splitlines()
        path = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
        group = mount / path.lstrip("/")
        # a group without the controller is counted in the next one above; a container may see only its own
        while group != mount and not (group / EVENTS).is_file():
            group = group.parent
        words = (group / EVENTS).read_text().split()
        return int(words[words.index("oom_kill") + 1])
    except (OSError, StopIteration, ValueError):
        return None


def rose(before: int | None) -> bool:
    """Whether the kernel ended processes for want of memory since `oom_kills` said so; false if not told."""
    now = oom_kills()
    return before is not None and now is not None and now > before
