"""Files as another process sees them.

The same path may name another file to a process in a container, under another root or in a directory that was
deleted. Linux shows a process's root and working directory as files, and files are compared, not names.
"""

from __future__ import annotations

from pathlib import Path

import psutil


def seen(process: psutil.Process, path: str) -> Path:
    """What a process means by a path.

    Args:
        process: Any.
        path: A relative one is taken from its working directory.

    Raises:
        psutil.Error: It is gone, or may not be asked.
    """
    if not Path(path).is_absolute():
        return directory(process) / path
    return Path(f"/proc/{process.pid}/root{path}") if psutil.LINUX else Path(path)


def directory(process: psutil.Process) -> Path:
    """The working directory of a process.

    Raises:
        psutil.Error: It is gone, or may not be asked.
    """
    return Path(f"/proc/{process.pid}/cwd" if psutil.LINUX else process.cwd())


def same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file; what cannot be seen is not the same."""
    try:
        return one.samefile(other)
    except OSError:
        return False
