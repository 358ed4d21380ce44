"""Merges over and over in processes that die at every file they touch; run by test_merge.py.

Prints a JSON object for each, until the merged run is there: the names in `results`, and the run's files.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from services.commands.checkpoints.found import checkpoints_of
from shared.worldmodel.merge import merge

TOUCHES = {"open", "os.mkdir", "os.rename", "os.remove"}
WRITES = os.O_WRONLY | os.O_RDWR


def die_at_touch(number: int) -> None:
    """Die as the machine would: without a word, when so many files were touched; reading is no touch."""
    left = number

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in TOUCHES and (event != "open" or arguments[2] & WRITES):
            left -= 1
            if left < 0:
                os._exit(9)

    sys.addaudithook(hook)


def main() -> None:
    """Die at every touch, one later each time."""
    torch.set_num_threads(1)
    source, target = sys.argv[1], Path(sys.argv[2])
    checkpoints = checkpoints_of(source, Path(), unsaid={}).checkpoints
    number = 0
    while not target.is_dir():  # it may die after the run is there
        pid = os.fork()
        if pid == 0:
            die_at_touch(number)
            merge(checkpoints, target)
            os._exit(0)
        os.waitpid(pid, 0)
        number += 1
        names = sorted(path.name for path in target.parent.iterdir()) if target.parent.is_dir() else []
        files = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
        print(json.dumps({"names": names, "files": files}))


if __name__ == "__main__":
    main()
