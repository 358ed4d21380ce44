"""A limit on the memory that reading a file may take."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

MOST = 2**30
"""Bytes beyond what the process has already; the files that are read have a few thousand."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Whoever asks for more gets a `MemoryError`."""
    (used,) = (each for each in Path("/proc/self/status").read_text().splitlines() if "VmData" in each)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(used.split()[1]) * 1024 + MOST, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
