"""Moves a bundle again and again, each time killed a step later, and sees what is left. Run by a test.

A step is whatever touches the file system, and each block that is read. The process is gone at once, as
with SIGKILL. Prints the number of deaths, or what was found wrong.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from services.bundles import copying, move
from shared.errors import BundleError
from tests.unit.bundles.conftest import fill, snapshot

KILLED, DONE, WRONG = 9, 0, 1
EVENTS = {"open"} | frozenset(
    f"os.{name}" for name in ("rename", "remove", "rmdir", "mkdir", "link", "symlink", "chmod", "utime")
)


def die_at(count: int, below: str) -> None:
    """End this process before its `count`th step."""
    left = count

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os._exit(KILLED)

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event in EVENTS and str(arguments[0]).startswith(below):
            step()

    class Dying:
        def __init__(self) -> None:
            self._digest = sha256()

        def update(self, block: bytes) -> None:
            step()
            self._digest.update(block)

        def hexdigest(self) -> str:
            return self._digest.hexdigest()

    sha256 = copying.hashlib.sha256  # type: ignore[attr-defined]
    copying.BLOCK = 1024
    copying.hashlib.sha256 = Dying  # type: ignore[attr-defined]
    sys.addaudithook(heard)


def moved(source: Path, target: Path, *, kill_at: int = 0) -> int:
    """Move in a process of its own; how it ended."""
    child = os.fork()
    if child == 0:
        try:
            if kill_at:
                die_at(kill_at, str(source.parent.parent))
            move.move(source, target, run_id="run", stamp="2026_01_02_03_04_05")
        except BundleError as error:
            print(error)
            os._exit(WRONG)
        os._exit(DONE)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ours(found: dict[str, str]) -> dict[str, str]:
    """Without what a move writes itself."""
    return {
        path: each
        for path, each in found.items()
        if not path.startswith("docs/action")
        or not ("asset-move" in path.rpartition("/")[2][:10] or path.endswith((".gitignore", "/action")))
    }


def files(found: dict[str, str]) -> dict[str, str]:
    return {path: each for path, each in found.items() if not each.startswith("folder")}


def main(place: Path, way: str) -> str:
    os.fsync = lambda _: None  # no power is lost here
    if way == "copied":
        move._Move._rename = lambda *_: False  # type: ignore[method-assign]
    deaths = 0
    while True:
        shutil.rmtree(place, ignore_errors=True)
        source, target = place / "runs" / "run", place / "other" / "run"
        fill(source)
        before = snapshot(source)
        code = moved(source, target, kill_at=deaths + 1)
        where = [source, move.aside_of(source), target]
        states = [files(snapshot(each)) for each in where]
        at_source = {**states[1], **states[0]}
        expected = files(before)
        complete = expected.items() <= states[2].items()
        if not complete and not expected.items() <= at_source.items():
            return f"death {deaths}: something is nowhere whole: {where}"
        if source.exists() and files(snapshot(source)) != expected:
            return f"death {deaths}: the source is not what it was"
        if code == DONE:
            return str(deaths) if deaths > 50 else f"only {deaths} steps"
        if code != KILLED:
            return f"death {deaths}: exit code {code}"
        deaths += 1
        code = moved(source, target)
        left = [
            str(each)
            for each in (
                source,
                move.aside_of(source),
                move._Move(source, target).done,
                move.staging_of(target),
            )
            if each.exists()
        ]
        if code not in (DONE, WRONG) or left:
            return f"death {deaths}: not gone on with: code {code}, left {left}"
        now = snapshot(target)
        if not before.items() <= now.items() or ours(now).keys() - before.keys() - {"docs"}:
            return f"death {deaths}: the target is not what the source was"
        if not list(target.glob("docs/action/asset-move-report-2026_01_02_03_04_05.md")):
            return f"death {deaths}: no report"
        if not (place / "runs" / "outside" / "kept.txt").exists():
            return f"death {deaths}: a link was followed"


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), sys.argv[2]))
