"""Where the files that a run's events name are now."""

from __future__ import annotations

from pathlib import PurePosixPath

from shared.bundle import Bundle
from shared.errors import BundleError
from shared.events import STAGES


class Places:
    """Finds files of a bundle by the path in an event.

    Checkpoints and sheets beyond the start of a later attempt lie in `superseded/<that attempt>/`.

    Args:
        bundle: Whose files.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._aside: dict[str, list[tuple[int, str]]] = {}
        for stage in STAGES:
            for path in (bundle.results / stage / "superseded").glob("*/*/*"):
                attempt = path.parent.parent.name
                if attempt.isdigit():
                    named = (bundle.results / stage / path.parent.name / path.name).relative_to(bundle.root)
                    here = path.relative_to(bundle.root).as_posix()
                    self._aside.setdefault(named.as_posix(), []).append((int(attempt), here))
        for found in self._aside.values():
            found.sort()

    def where(self, path: str, attempt: int | None) -> str | None:
        """The path now, relative to the bundle; none if the file is gone.

        Args:
            path: As an event names it.
            attempt: Of that event: what a later one moved aside is meant, not what took its place. None means
                the file that has the name now.
        """
        name = PurePosixPath(path).as_posix()
        if attempt is not None:
            for by, aside in self._aside.get(name, ()):
                if by > attempt:
                    return aside
        try:
            return name if self._bundle.resolve(name).exists() else None
        except (BundleError, OSError):
            return None
