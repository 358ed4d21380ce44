"""`worldloop watch --every`: a run printed again and again, and kept in its bundle's Logs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

from rich.console import Console

from services.commands.terminal.output import PLAIN_WIDTH, say, say_json
from services.commands.terminal.painter import signs, write
from services.commands.terminal.view import view
from services.commands.watching.journal import Journal
from services.commands.watching.sight import Sight
from shared.bus.protocol import Recorded

FilesLook = Callable[[], tuple[Sequence[str], Mapping[str, str]]]
SHARE = 3
"""A pause is at least so many times as long as a look."""
ALERTS = ("watch", "bad")
"""Levels of notes that are told as new alerts."""


class Periodic:
    """A `Display` for who wants to read later what was.

    Args:
        console: Where it is printed.
        sight: What is seen of the run.
        files: Looks at the run's files: how long each channel is silent; gives its lines, and what it alerts
            of by name. None where that cannot be.
        journal: Where it is kept; none where the bundle is not on this machine.
        every: Seconds between two looks.
        as_json: One JSON document a line, instead of text.
    """

    def __init__(
        self,
        console: Console,
        sight: Sight,
        files: FilesLook | None,
        journal: Journal | None,
        *,
        every: float,
        as_json: bool,
    ) -> None:
        self._console, self._sight, self._files, self._journal = console, sight, files, journal
        self._pause, self._as_json = every, as_json
        self._due = 0.0
        self._told: set[str] = set()
        self._standing: Mapping[str, str] = {}

    def __enter__(self) -> Periodic:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Nothing to give back."""

    @property
    def every(self) -> float | None:
        """See `Display`."""
        return max(0.0, self._due - time.monotonic())

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """See `Display`."""
        yield

    def show(self, recorded: Recorded | None) -> None:  # noqa: ARG002 - it looks when it is time
        """See `Display`: prints and keeps it if it is time."""
        if time.monotonic() >= self._due and not self._sight.fold.ended:
            began = time.monotonic()
            self.look()
            self._due = began + max(self._pause, SHARE * (time.monotonic() - began))

    def look(self) -> None:
        """Print and keep the run as it is now: again and again, and once when it is over."""
        page = self._sight.page()
        losses = self._sight.losses(page)
        seen, standing = self._files() if self._files is not None else ([], {})
        alerts = {note.id: note.text for note in page.notes if note.level in ALERTS}
        new = [text for ident, text in alerts.items() if ident not in self._told]
        new += [text for name, text in standing.items() if name not in self._standing]
        self._told |= set(alerts)
        self._standing = standing
        if self._journal is not None:
            kept = view(page, losses, width=PLAIN_WIDTH)
            self._journal.write([*(line.plain for line in kept), "", *seen], new)
        if self._as_json:
            say_json(page.model_dump_json())
        else:
            write(self._console, view(page, losses, width=self._console.width, signs=signs(self._console)))
            say("\n".join(["", *seen]))
