"""How long the git evidence of a long history takes, in each mode, against `git show` for every commit.

    python benchmarks/git_evidence.py [--commits 10000] [--sample 200]

Builds a repository with `git fast-import`: 60 files, every 5th commit mentions the game, every 50th is a
merge, every 500th renames a file. The commits lie in one year, so that all of them are candidates. The other
way, one `git show` for each commit, is timed on a sample and taken to all commits.

Last line: one JSON object with the seconds of each mode, `show_s` and `speedup` over it of the slowest mode.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from services.reporter.core.git.question import MODES, question
from services.reporter.git.audit import audit

BEGIN, STEP = 1735689600, 3000
ENVIRONMENT = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


def main() -> None:
    """Build, ask, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commits", type=int, default=10_000)
    parser.add_argument("--sample", type=int, default=200)
    given = parser.parse_args()
    figures: dict[str, float] = {"commits": given.commits}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        git(place, "init", "-q", "-b", "main")
        git(place, "fast-import", "--quiet", given=b"".join(stream(given.commits)))
        for mode in MODES:
            began = time.perf_counter()
            found = audit(place, question("zelda", 2025, mode))
            seconds = time.perf_counter() - began
            assert found.problem is None, found.problem
            figures[f"{mode}_s"] = round(seconds, 2)
            print(f"{mode:>14}: {seconds:6.2f} s  {len(found.commits):6} of {found.of_year} commits count")
        figures["show_s"] = round(shows(place, given.sample) * given.commits / given.sample, 1)
    print(f"{'git show each':>14}: {figures['show_s']:6.1f} s  ({given.sample} timed)")
    figures["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    figures["speedup"] = round(figures["show_s"] / max(figures[f"{mode}_s"] for mode in MODES), 1)
    print(json.dumps(figures))


def stream(commits: int) -> Iterator[bytes]:
    """The history, as `git fast-import` reads it."""
    names = {number: f"configs/{number}.yaml" for number in range(60)}
    for mark in range(1, commits + 1):
        number = mark % 60
        word = b"zelda" if mark % 5 == 0 else b"pong"
        content = b"".join(b"line %d\n" % line for line in range(100)) + b"%b: %d\n" % (word, mark)
        yield b"commit refs/heads/main\nmark :%d\ncommitter A <a> %d +0000\n" % (mark, BEGIN + mark * STEP)
        yield b"data 4\nwork\n"
        if mark > 1:
            yield b"from :%d\n" % (mark - 1)
        if mark > 30 and mark % 50 == 0:
            yield b"merge :%d\n" % (mark - 25)
        if mark > 60 and mark % 500 == 0:
            old, names[number] = names[number], f"configs/{number}_{mark}.yaml"
            yield b"R %b %b\n" % (old.encode(), names[number].encode())
        else:
            yield b"M 100644 inline %b\ndata %d\n%b\n" % (names[number].encode(), len(content), content)


def shows(place: Path, sample: int) -> float:
    """Seconds for one `git show` for each of so many commits."""
    hashes = git(place, "rev-list", f"--max-count={sample}", "HEAD").decode().split()
    began = time.perf_counter()
    for each in hashes:
        git(place, "show", "-U0", each)
    return time.perf_counter() - began


def git(place: Path, *arguments: str, given: bytes | None = None) -> bytes:
    """Run git there."""
    return subprocess.run(
        ["git", *arguments], cwd=place, input=given, capture_output=True, check=True, env=ENVIRONMENT
    ).stdout


if __name__ == "__main__":
    main()
