"""The report of a move, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.bundles.core.manifest import printable


@dataclass(frozen=True, slots=True)
class Moved:
    """A move that is done."""

    run_id: str
    source: str
    target: str
    stamp: str
    """UTC, YYYY_MM_DD_HH_MM_SS, when the move was begun."""
    way: str
    """renamed or copied."""
    files: int
    links: int
    size: int
    """Bytes on the disk."""
    dangling: Sequence[str]
    """Symbolic links that lead nowhere from the new place."""


def names(stamp: str) -> tuple[str, str]:
    """File names of a move's report and manifest."""
    return f"asset-move-report-{stamp}.md", f"asset-move-manifest-{stamp}.txt"


def to_markdown(moved: Moved) -> str:
    """The report."""
    _, manifest = names(moved.stamp)
    how = (
        "It was renamed within one file system: checksums were taken before, and compared after."
        if moved.way == "renamed"
        else "It was copied to another file system. Every checksum of the copy was read back from there and "
        "compared with the source, which had not changed meanwhile; only then was the source deleted."
    )
    lines = [
        f"# Run {moved.run_id} was moved",
        "",
        how,
        "",
        "| | |",
        "|---|---|",
        f"| from | `{moved.source}` |",
        f"| to | `{moved.target}` |",
        f"| begun (UTC) | {moved.stamp} |",
        f"| files | {moved.files}, {moved.size} bytes on the disk |",
        f"| symbolic links | {moved.links}, kept as they were |",
        f"| checksums | [{manifest}]({manifest}), for `worldloop bundle verify` and `sha256sum` |",
        "",
        "This file and the manifest are local only: git ignores them.",
    ]
    if moved.dangling:
        lines += [
            "",
            "These links lead nowhere from here:",
            "",
            *(f"- `{printable(path)}`" for path in moved.dangling),
        ]
    return "\n".join(lines) + "\n"
