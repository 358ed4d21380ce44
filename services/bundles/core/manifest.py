"""What a bundle holds, by checksum: lines as `sha256sum` writes and `sha256sum --check` reads them.

A symbolic link is a comment to sha256sum and is compared by where it leads; it is never followed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

LINK = "# link "
"""Begins the line of a symbolic link: a JSON list of path and target follows."""
LINE = re.compile(r"(\\?)([0-9a-f]{64}) [ *](.+)")
ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


class Fault(NamedTuple):
    """Something that is not as it should be."""

    path: str
    """Relative to the bundle."""
    problem: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The files of a directory; paths are relative to it, with `/`."""

    files: Mapping[str, str] = field(default_factory=dict)
    """Path -> SHA-256, 64 hexadecimal digits."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Path of a symbolic link -> where it leads, as it stands there."""


def printable(path: str) -> str:
    """A path in one line that any terminal or report can show: what is not printable is escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in path)


def to_bytes(manifest: Manifest) -> bytes:
    """The manifest as a file's content; names with line ends or backslashes are escaped as GNU does."""
    lines = [
        f"{LINK}{json.dumps([path, target], ensure_ascii=False)}\n"
        for path, target in sorted(manifest.links.items())
    ]
    for path, digest in sorted(manifest.files.items()):
        escaped = "".join(ESCAPES.get(letter, letter) for letter in path)
        mark = "" if escaped == path else "\\"
        lines.append(f"{mark}{digest}  {escaped}\n")
    return "".join(lines).encode(errors="surrogateescape")


def parse(content: bytes) -> Manifest:
    """The manifest in a file's content.

    Raises:
        ValueError: A line is none of a manifest's; names it.
    """
    files: dict[str, str] = {}
    links: dict[str, str] = {}
    for number, line in enumerate(content.decode(errors="surrogateescape").split("\n"), start=1):
        if line.startswith(LINK):
            path, target = _link(line.removeprefix(LINK))
            links[path] = target
        elif line and not line.startswith("#"):
            found = LINE.fullmatch(line)
            if found is None:
                raise ValueError(f"line {number} is neither `<sha256>  <path>` nor a comment")
            escaped, digest, path = found.groups()
            files[_unescaped(path) if escaped else path] = digest
    return Manifest(files, links)


def _link(text: str) -> tuple[str, str]:
    try:
        found = json.loads(text)
    except RecursionError:
        found = None
    match found:
        case [str(path), str(target)]:
            return path, target
    raise ValueError(f"`{text[:80]}` is no link: a list of a path and where it leads is wanted")


def missing_or_changed(expected: Manifest, found: Manifest) -> list[Fault]:
    """What of the one manifest is not in the other as it should be, by path."""
    faults = [
        Fault(path, "is missing" if path not in found.files else "has another checksum")
        for path, digest in expected.files.items()
        if found.files.get(path) != digest
    ]
    faults += [
        Fault(
            path, "is missing" if path not in found.links else f"leads to {found.links[path]}, not {target}"
        )
        for path, target in expected.links.items()
        if found.links.get(path) != target
    ]
    return sorted(faults)


def differences(expected: Manifest, found: Manifest) -> list[Fault]:
    """The same, and what is there besides."""
    new = {*found.files, *found.links} - {*expected.files, *expected.links}
    return sorted([*missing_or_changed(expected, found), *(Fault(path, "is new") for path in new)])


def _unescaped(path: str) -> str:
    back = {escaped: letter for letter, escaped in ESCAPES.items()}
    return re.sub(r"\\[\\nr]", lambda found: back[found.group()], path)
