"""Files of a bundle that the page may show: those that it names itself, of kinds that are only looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from services.reporter.core.page.model import Page
from shared.bundle import Bundle
from shared.errors import BundleError

TEXT = "text/plain; charset=utf-8"
KINDS = {
    ".png": "image/png",
    ".webp": "image/webp",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".md": TEXT,
    ".txt": TEXT,
    ".log": TEXT,
    ".csv": TEXT,
    ".json": TEXT,
    ".jsonl": TEXT,
    ".yaml": TEXT,
    ".yml": TEXT,
}
"""Ending -> content type: pictures, and everything else as text that no browser runs."""


def named(page: Page) -> Iterator[str]:
    """The paths of all files that a page names."""
    for gate in page.gates:
        yield from (link.path for link in gate.evidence)
    yield from (sheet.path for sheet in page.sheets)
    yield from (report.path for report in page.reports if report.path is not None)
    if page.inference is not None:
        yield from (path for path in (page.inference.picture, page.inference.preview) if path is not None)


def find(bundle: Bundle, page: Page, path: str) -> tuple[Path, str]:
    """A file that may be shown, and its content type.

    Raises:
        BundleError: The page does not name it, it is of another kind, not there, or leads out of the bundle.
    """
    kind = KINDS.get(PurePosixPath(path).suffix.lower())
    if kind is None or path not in set(named(page)):
        raise BundleError(f"{path}: the page names no such file of a kind that is shown")
    found = bundle.resolve(path)
    if not found.is_file():
        raise BundleError(bundle.gone() or f"{path} is not in the bundle {bundle.root} (any more)")
    return found, kind
