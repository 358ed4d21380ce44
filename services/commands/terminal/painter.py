"""Draws lines on a terminal and then only what has changed: a second over a slow line costs a few bytes."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.text import Text

from services.commands.terminal.text import ASCII, UNICODE, Signs

ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
"""To the other screen without a cursor, and back."""
CLEAR = "\x1b[2J"


def signs(console: Console) -> Signs:
    """What this terminal's alphabet has."""
    return ASCII if console.options.ascii_only else UNICODE


def write(console: Console, lines: Sequence[Text]) -> None:
    """Print lines as they are, one below the other."""
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False)


class Painter:
    """The terminal's other screen, while the context lasts; what was there before comes back after it.

    Args:
        console: A terminal that knows cursor positions (`Console.is_terminal` and not `is_dumb_terminal`).
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._size = (0, 0)
        self._shown: list[str] = []

    def __enter__(self) -> Painter:
        self._write(ENTER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._write(LEAVE)

    def draw(self, lines: Sequence[Text]) -> None:
        """Show the lines from the top; those beyond the screen's end are left out."""
        width, height = self._console.size
        wanted = [self._drawn(line) for line in lines[:height]]
        wanted += [""] * (height - len(wanted))
        out = ""
        if (width, height) != self._size:
            self._size, self._shown, out = (width, height), [""] * height, CLEAR
        for row, (text, before) in enumerate(zip(wanted, self._shown, strict=True), start=1):
            if text != before:
                # Erased before it is written: after a full line that would take its last cell.
                out += f"\x1b[{row};1H\x1b[K{text}"
        self._shown = wanted
        if out:
            self._write(out)

    def _drawn(self, line: Text) -> str:
        """A line with its colours, as this console shows them."""
        with self._console.capture() as capture:
            self._console.print(line, end="", soft_wrap=True, highlight=False)
        return capture.get()

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()
