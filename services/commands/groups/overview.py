"""`worldloop --help`: the commands by subject, each with its first sentence whole."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

WHOLE = 1000
"""Letters of a sentence that is not cut."""


class Overview(TyperGroup):
    """A group that shows its commands under the panel each was declared with."""

    def format_commands(self, _: Any, formatter: Any) -> None:
        """Write a section for each panel, in the order of declaration."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            row = (name, command.get_short_help_str(WHOLE))
            panels.setdefault(getattr(command, "rich_help_panel", None) or "Commands", []).append(row)
        widest = max(len(name) for name in self.commands)
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl([(name.ljust(widest), text) for name, text in rows])


def group(text: str) -> typer.Typer:
    """Commands under one name; `text` says what they are about."""
    return typer.Typer(cls=Overview, no_args_is_help=True, rich_markup_mode=None, help=text)
