"""What git prints, read: names, changed lines, changed files. Any bytes can be read; none are an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

COMMIT = "commit "
"""What `--format=commit %H` begins a commit with: no line of a patch's head or of a list of files does."""
_HUNK = re.compile(rb"@@+((?: -\d{1,18}(?:,\d{1,18})?)+) \+\d{1,18}(?:,(\d{1,18}))? @@")
_COUNT = re.compile(rb"-\d+(?:,(\d+))?")
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_CONTROL = {b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r"}


@dataclass(frozen=True, slots=True)
class Mention:
    """A file of a commit, or a changed line of it that mentions the game."""

    commit: str
    path: bytes
    line: bytes | None = None
    """With its marks: `+` or `-`, of a merge one for each parent."""


@dataclass(frozen=True, slots=True)
class Change:
    """A file that a commit changed."""

    commit: str
    path: bytes
    """What it is called after the commit; of a deleted file what it was called before."""
    old: bytes | None = None
    """What it was called before, if it was renamed."""


def unquote(name: bytes) -> bytes:
    """A name as git prints it: in quotes, with escapes, where it has unusual bytes."""
    if len(name) < 2 or not (name.startswith(b'"') and name.endswith(b'"')):
        return name
    return _ESCAPE.sub(_unescape, name[1:-1])


def mentions(lines: Iterable[bytes], mention: re.Pattern[bytes]) -> Iterator[Mention]:
    """Files and changed lines out of patches without context (`--format=commit %H -p -U0`).

    The counts of a hunk say which lines are content, so nothing in a file can pass for anything else.

    Yields:
        For each file one mention without a line, then its changed lines that match.
    """
    commit, path, old = "", b"", b""
    left: list[int] = []
    """Lines that a hunk still holds of each parent's file and, last, of the commit's."""
    for line in lines:
        if any(count > 0 for count in left):
            if line.startswith(b"\\"):  # No newline at end of file
                continue
            marks, text = line[: len(left) - 1], line[len(left) - 1 :]
            _consume(left, marks)
            if marks.strip() and mention.search(text.rstrip(b"\n")):
                yield Mention(commit, path, line.rstrip(b"\n"))
        elif found := _HUNK.match(line):
            left = [_number(count) for count in _COUNT.findall(found[1])] + [_number(found[2])]
        elif line.startswith(COMMIT.encode()):
            commit = _hash(line)
        elif line.startswith(b"--- "):
            old = _named(line)
        elif line.startswith(b"+++ "):
            path = _named(line) or old
            yield Mention(commit, path)


def changes(lines: Iterable[bytes], commit: str = "") -> Iterator[Change]:
    """Files out of `--format=commit %H --name-status`.

    Args:
        lines: What git printed.
        commit: Whose files come before the first line that names a commit.
    """
    for line in lines:
        if line.startswith(COMMIT.encode()):
            commit = _hash(line)
            continue
        status, _, names = line.rstrip(b"\n").partition(b"\t")
        if names:
            parts = [unquote(name) for name in names.split(b"\t")]
            renamed = len(parts) > 1 and b"R" in status
            yield Change(commit, parts[-1], parts[0] if renamed else None)


def _consume(left: list[int], marks: bytes) -> None:
    removed = b"-" in marks
    for place, mark in enumerate(marks):
        left[place] -= mark == ord("-") or (mark == ord(" ") and not removed)
    left[-1] -= not removed


def _number(text: bytes | None) -> int:
    return int(text) if text else 1


def _hash(line: bytes) -> str:
    return line[len(COMMIT) :].strip().decode("ascii", "replace")


def _named(line: bytes) -> bytes:
    """The name in a line like `+++ b/name`; empty for none."""
    text = line[4:].rstrip(b"\n").removesuffix(b"\t")
    name = unquote(text)
    return b"" if text == b"/dev/null" else name[2:]


def _unescape(found: re.Match[bytes]) -> bytes:
    code = found[1]
    if len(code) == 3:
        return bytes([int(code, 8) & 0xFF])
    return _CONTROL.get(code, code)
