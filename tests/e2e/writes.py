"""What the Python processes of a world write, wherever they do it: an audit hook in each of them.

The hook comes as `sitecustomize`, so that services, launchers and ranks have it too. Programs that are no
Python (nats-server, wandb's core) are seen by listing the directories that they are given.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.e2e.world import World

HOOK = """
import os, sys

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MAKING = {"os.mkdir": 0, "os.rename": 1, "os.symlink": 1, "os.link": 1}


def _watch():
    log = os.open(os.environ["TEST_WRITES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    if "RANK" in os.environ:
        with open(os.environ["TEST_WRITES"] + ".ranks", "a") as ranks:
            ranks.write(os.environ.get("RUN_BUNDLE_ROOT", "") + "\\n")

    def heard(event, arguments):
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITING:
                return
        elif event in _MAKING:
            path = arguments[_MAKING[event]]
        else:
            return
        if isinstance(path, (str, bytes, os.PathLike)):
            os.write(log, os.fsencode(os.path.abspath(path)) + b"\\n")

    sys.addaudithook(heard)


_watch()
"""


class Writes:
    """Records what is written in a world; its own files lie elsewhere.

    Args:
        world: The world; nothing was started in it yet.
        place: For the hook, the record, and as the world's TMPDIR.
    """

    def __init__(self, world: World, place: Path) -> None:
        self.temporary, self._log = place / "tmp", place / "writes"
        self.temporary.mkdir()
        (place / "sitecustomize.py").write_text(HOOK)
        for name in [name for name in world.environment if name.startswith(("XDG_", "MPLCONFIGDIR"))]:
            del world.environment[name]
        before = world.environment.get("PYTHONPATH")
        world.environment |= {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(place), before])),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TEST_WRITES": str(self._log),
            "TMPDIR": str(self.temporary),
        }

    def outside(self, *allowed: Path) -> set[str]:
        """What was written, but for devices and what lies in some directories."""
        return {
            path
            for path in self._log.read_text().splitlines()
            if not path.startswith("/dev/") and not any(Path(path).is_relative_to(place) for place in allowed)
        }

    def told_to_ranks(self) -> set[str]:
        """What RUN_BUNDLE_ROOT was in the processes of the training groups."""
        return set(self._log.with_name(f"{self._log.name}.ranks").read_text().splitlines())

    def inside(self, place: Path) -> set[str]:
        """What was written in a directory."""
        return {path for path in self._log.read_text().splitlines() if Path(path).is_relative_to(place)}
