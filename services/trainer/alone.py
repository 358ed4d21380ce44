"""One trainer at a time: a second one waits until the first is gone, then takes its place.

Two would launch two process groups for one chunk, and both would write its checkpoints.
"""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from shared.settings import Settings


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Be the only trainer of this state directory and node rank for as long as the block runs.

    However the process ends, the kernel lets go of the lock.

    Args:
        settings: Where the lock file is, and whose.
    """
    path = settings.state_dir / f"trainer-{settings.node_rank}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another trainer holds {path}; waiting for its end", file=sys.stderr, flush=True)  # noqa: T201
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
