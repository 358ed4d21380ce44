"""Moves a bundle again and again, each time killed a step later, and sees what is left. Run by a test.

A step is whatever touches the file system, and each block that is read. From its death on a move touches
nothing more: whatever it does to clear up fails as well. Prints the number of deaths, or what was wrong.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from services.bundles import copying, move
from services.bundles.journal import Places
from shared.errors import BundleError
from tests.unit.bundles.conftest import fill, snapshot

STEPS = {"open"} | frozenset(
    f"os.{name}" for name in ("rename", "remove", "rmdir", "mkdir", "link", "symlink", "chmod", "utime")
)


class Killed(BaseException):
    """SIGKILL, as far as the file system can tell."""


class Death:
    """Comes before the move's next step once so many are done; never while it is not armed."""

    def __init__(self, below: Path) -> None:
        self._below, self._left, self._armed = str(below), 0, False
        sys.addaudithook(self._heard)

    def arm(self, steps: int) -> None:
        self._left, self._armed = steps, True

    def disarm(self) -> None:
        self._armed = False

    def step(self) -> None:
        if self._armed:
            self._left -= 1
            if self._left <= 0:
                raise Killed

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in STEPS and str(arguments[0]).startswith(self._below):
            self.step()


def hashing(death: Death) -> SimpleNamespace:
    """A hashlib whose every block is a step."""

    class Dying:
        def __init__(self) -> None:
            self._digest = hashlib.sha256()

        def update(self, block: bytes) -> None:
            death.step()
            self._digest.update(block)

        def hexdigest(self) -> str:
            return self._digest.hexdigest()

    return SimpleNamespace(sha256=Dying)


def moved(places: Places, death: Death | None = None) -> str:
    """Move; how it ended."""
    try:
        move.move(places.source, places.target, run_id="run", stamp="2026_01_02_03_04_05")
    except BundleError:
        return "refused"
    except Killed:
        return "killed"
    finally:
        if death is not None:
            death.disarm()
    return "done"


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


def left_of(before: dict[str, str], places: Places, ended: str) -> str | None:
    """What is wrong right after a death, or an end; none if nothing was lost."""
    at_source, aside, at_target = (
        files(snapshot(each)) for each in (places.source, places.aside, places.target)
    )
    expected = files(before)
    if not expected.items() <= at_target.items() and not expected.items() <= (aside | at_source).items():
        return "something is nowhere whole"
    if places.source.exists() and at_source != expected:
        return "the source is not what it was"
    return None if ended in ("killed", "done") else f"it was {ended}"


def gone_on(before: dict[str, str], places: Places) -> str | None:
    """What is wrong after the same move once more."""
    ended = moved(places)
    beside = {*places.source.parent.glob("*run*"), *places.target.parent.glob(".*")}
    if ended == "refused":  # all was done, and at its last steps an empty lock may stay
        beside -= {each for each in beside if each.suffix == ".lock" and not each.stat().st_size}
    if beside:
        return f"not gone on with: {ended}, left {beside}"
    now = snapshot(places.target)
    if not before.items() <= now.items() or ours(now).keys() - before.keys() - {"docs"}:
        return "the target is not what the source was"
    if not list(places.target.glob("docs/action/asset-move-report-2026_01_02_03_04_05.md")):
        return "no report"
    if not (places.source.parent / "outside" / "kept.txt").exists():
        return "a link was followed"
    return None


def deaths(place: Path, death: Death) -> int | str:
    """Die at every step of a move; how many there are, or what went wrong."""
    count = 0
    while True:
        shutil.rmtree(place, ignore_errors=True)
        places = Places(place / "runs" / "run", place / "other" / "run")
        fill(places.source)
        before = snapshot(places.source)
        death.arm(count + 1)
        ended = moved(places, death)
        if (wrong := left_of(before, places, ended)) is not None:
            return f"death {count}: {wrong}"
        if ended == "done":
            return count if count > 50 else f"only {count} steps"
        count += 1
        if (wrong := gone_on(before, places)) is not None:
            return f"death {count}: {wrong}"


def main(place: Path) -> None:
    os.fsync = lambda _: None  # no power is lost here
    death = Death(place)
    copying.BLOCK = 1024
    copying.hashlib = hashing(death)  # type: ignore[attr-defined]
    print("renamed", deaths(place, death))
    move._Move._rename = lambda *_: False  # type: ignore[method-assign]
    print("copied", deaths(place, death))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
