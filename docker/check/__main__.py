"""Runs the check."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from docker.check import containers, images, training
from docker.check.stack import Broken, Stack


def main(dataset: Path, words: Sequence[str]) -> None:
    """Check everything; the work directory and the containers are removed whatever happens."""
    with tempfile.TemporaryDirectory(prefix="worldloop-compose-") as scratch:
        stack = Stack(Path(scratch))
        try:
            stack.start()
            images.small(stack)
            images.without_secrets(stack)
            containers.confined(stack)
            containers.gpus(stack)
            containers.strangers(stack)
            containers.health(stack)
            run_id = training.train(stack, dataset.absolute(), words)
            training.bundle(stack, run_id)
        except Broken:
            stack.tell_logs()
            raise
        finally:
            stack.remove()
    print("every promise was kept")


if __name__ == "__main__":
    if os.getuid() != 0:
        sys.exit("root is needed: the services are killed by their pids on this host")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that it clears up
    try:
        main(Path(sys.argv[1]), sys.argv[2:])
    except Broken as broken:
        sys.exit(f"broken: {broken}")
