"""`--help`: every command under a subject, its first sentence whole."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from services import cli

GROUPS = sorted(
    name
    for name, each in typer.main.get_command(cli.app).commands.items()
    if hasattr(each, "commands")  # type: ignore[attr-defined]
)


def first_sentence(command: Any) -> str:
    return command.get_short_help_str(1000).rstrip(".")


@pytest.mark.parametrize("words", [[], *([name] for name in GROUPS)], ids=str)
def test_every_command_is_told_in_a_whole_sentence(words: list[str]) -> None:
    group: Any = typer.main.get_command(cli.app)
    for word in words:
        group = group.commands[word]
    shown = " ".join(CliRunner().invoke(cli.app, [*words, "--help"]).stdout.split())
    for name, command in group.commands.items():
        assert f"{name} {' '.join(first_sentence(command).split())}" in shown
    assert "..." not in shown.replace("[ARGS]...", "")


def test_each_command_of_worldloop_has_a_subject() -> None:
    shown = CliRunner().invoke(cli.app, ["--help"]).stdout
    assert "Commands:" not in shown
