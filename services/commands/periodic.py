"""`worldloop watch --every`: a run printed again and again, and kept in its bundle's Logs."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from types import TracebackType

from rich.console import Console

from services.commands.sight import Sight
from services.commands.terminal.painter import signs, write
from services.commands.terminal.view import view
from services.commands.watch_journal import Journal
from shared.bus.protocol import Recorded

ALERTS = ("watch", "bad")
"""Levels of notes that are told as new alerts."""


class Periodic:
    """A `Display` for who wants to read later what was.

    Args:
        console: Where it is printed.
        sight: What is seen of the run.
        journal: Where it is kept; none where the bundle is not on this machine.
        every: Seconds between two looks.
        as_json: One JSON document a line, instead of text.
    """

    def __init__(
        self, console: Console, sight: Sight, journal: Journal | None, *, every: float, as_json: bool
    ) -> None:
        self._console, self._sight, self._journal = console, sight, journal
        self._pause, self._as_json = every, as_json
        self._due = 0.0
        self._told: set[str] = set()

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
            self._due = time.monotonic() + self._pause
            self.look()

    def look(self) -> None:
        """Print and keep the run as it is now: again and again, and once when it is over."""
        page = self._sight.page()
        lines = view(page, self._sight.losses(page), width=self._console.width, signs=signs(self._console))
        alerts = {note.id: note.text for note in page.notes if note.level in ALERTS}
        new = [text for ident, text in alerts.items() if ident not in self._told]
        self._told |= set(alerts)
        if self._journal is not None:
            self._journal.write((line.plain for line in lines), new)
        if self._as_json:
            sys.stdout.write(page.model_dump_json() + "\n")
            sys.stdout.flush()
        else:
            write(self._console, lines)
