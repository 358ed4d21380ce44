"""Damaged files: read as far as they go, or refused with a clear error; no other exception, hang or hunger.

`make fuzz` tries forty times as many.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given

from tests.fuzz import memory
from tests.fuzz.effort import tries
from tests.fuzz.mutants import Damages, after, damages
from tests.fuzz.subjects import ROOT, SUBJECTS, Subject

IN_PROCESS = [name for name, subject in SUBJECTS.items() if subject.in_process]
IN_A_CHILD = [name for name, subject in SUBJECTS.items() if not subject.in_process]
thoroughly = tries()


def damaged(subject: Subject, directory: Path, outcome: Callable[[Path], str]) -> None:
    """Hold `outcome` of a good file and of damaged ones against what is allowed."""
    path = directory / subject.name
    subject.make(path)
    assert outcome(path) == "read"
    valid = path.read_bytes()
    outcomes: Counter[str] = Counter()

    @thoroughly
    @example(b"B\xd2\xba]K")  # the pickle of a text of a gigabyte
    @example(b"X\xff\xff\xff\x7f")
    @given(damages())
    def one(damage: Damages) -> None:
        path.unlink()  # a new file, for a reader may keep what it knows of one that has not changed
        path.write_bytes(after(damage, valid))
        found = outcome(path)
        outcomes[found] += 1
        assert found in {"read", "refused"}

    one()
    assert outcomes["refused"] or subject.tolerant, outcomes


@pytest.mark.parametrize("name", IN_PROCESS)
def test_a_damaged_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    subject = SUBJECTS[name]

    def outcome(path: Path) -> str:
        try:
            with memory.bounded():
                subject.read(path)
        except subject.refusal:
            return "refused"
        return "read"

    damaged(subject, tmp_path, outcome)


class Child:
    """A process that reads files, started anew when a file ended it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def outcome(self, name: str, path: Path) -> str:
        """`read`, `refused`, what was raised, or how the process ended."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{name}\t{path}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline().rstrip("\n")
        return line or f"it ended the process: {self.end()}"

    def end(self) -> int:
        """Ends the process; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.communicate()
        return process.returncode


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    child = Child()
    yield child
    assert child.end() == 0


@pytest.mark.parametrize("name", IN_A_CHILD)
def test_a_damaged_file_of_a_c_library_is_read_or_refused(name: str, tmp_path: Path, child: Child) -> None:
    damaged(SUBJECTS[name], tmp_path, lambda path: child.outcome(name, path))
