"""What was read of a file, kept as long as the file does not change: a run is looked at again and again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Results by path; of each path the newest, of all paths those used last.

    Args:
        most: So many paths.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._results: dict[Path, tuple[Hashable, T]] = {}

    def of(self, path: Path, state: Hashable, read: Callable[[], T]) -> T:
        """What `read` gives, or gave when the path was in the same state; its errors are not kept.

        Args:
            path: What is read.
            state: Differs when something else is there: sizes, times of the last change.
            read: Reads it.
        """
        before, result = self._results.pop(path, (None, None))
        if before != state or result is None:
            result = read()
        self._results[path] = (state, result)
        while len(self._results) > self._most:
            del self._results[next(iter(self._results))]
        return result


def state_of(path: Path) -> tuple[int, int]:
    """Size and time of the last change of a file; zeros where there is none."""
    try:
        about = path.stat()
    except OSError:
        return 0, 0
    return about.st_size, about.st_mtime_ns
