"""How commands print: what comes from a run, a file or a server reaches the terminal without controls."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from services.commands.terminal.text import ASCII, UNICODE, Signs, clean

PLAIN_WIDTH = 160
"""Columns where the output is no terminal: nothing should be cut off in a file."""
UNESCAPED = re.compile(r"[\x7f-\x9f]")
"""Controls that JSON leaves as they are."""


def say(text: str) -> None:
    """A line, or several, on stdout."""
    _write(sys.stdout, text)


def warn(text: str) -> None:
    """A line, or several, on stderr."""
    _write(sys.stderr, text)


def say_json(text: str) -> None:
    """A JSON document on stdout, for programs: only controls are escaped."""
    sys.stdout.write(UNESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")
    sys.stdout.flush()


def tell(console: Console, text: str) -> None:
    """A line, or several, on a console: as it is, however long."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class CleanConsole(Console):
    """A console for tables and colours: it writes its own control codes, and none of what it is given.

    Where there is no terminal, and COLUMNS does not say how wide it is to be, lines have room.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = PLAIN_WIDTH

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Make segments of something, each clean."""
        signs = ASCII if (options or self.options).ascii_only else UNICODE
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(_clean(segment.text, signs), segment.style)


def _write(stream: TextIO, text: str) -> None:
    signs = UNICODE if (stream.encoding or "utf").lower().startswith("utf") else ASCII
    stream.write(_clean(text, signs) + "\n")
    stream.flush()


def _clean(text: str, signs: Signs) -> str:
    return "\n".join(clean(line, signs) for line in text.split("\n"))
