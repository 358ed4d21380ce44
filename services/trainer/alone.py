"""One trainer of a state directory at a time: a second one waits for the end of the first.

Two would launch two process groups for one chunk, and both would write its checkpoints. Those that have other
state directories are kept apart by `services.trainer.turn`.
"""

from __future__ import annotations

import fcntl
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.settings import Settings


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Be the only trainer of this state directory and node rank for as long as the block runs.

    However the process ends, the kernel lets go of the lock.

    Args:
        settings: Where the lock file is, and whose.
    """
    path = _lock_file(settings)
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another trainer holds {path}; waiting for its end", file=sys.stderr, flush=True)  # noqa: T201
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def place_of(settings: Settings) -> str:
    """What names this state directory and node rank among those of all hosts; to be asked while `alone`."""
    path = _lock_file(settings)
    name = path.read_text() if path.exists() else ""
    if not name:
        name = secrets.token_hex(8)
        path.write_text(name)  # in place: the lock is on the file
    return name


def _lock_file(settings: Settings) -> Path:
    path = settings.state_dir / f"trainer-{settings.node_rank}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
