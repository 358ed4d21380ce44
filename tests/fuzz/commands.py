"""Invokes the CLI as its entry point does, and holds what it answers against what is allowed."""

from __future__ import annotations

import re

from typer.testing import CliRunner

from services import cli
from shared.errors import UsageError, WorldloopError

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal takes for a command, line ends and tabs aside."""


def answered(arguments: list[str]) -> int:
    """The exit code of a command that answered, or said in a sentence why not."""
    result = CliRunner().invoke(cli.app, arguments)
    code, error = result.exit_code, result.exception
    if isinstance(error, OSError):  # as `cli.main` does
        code = UsageError.exit_code
    elif isinstance(error, WorldloopError):
        code = error.exit_code
        assert str(error).strip()
        assert len(str(error)) < 20_000
    elif error is not None and not isinstance(error, SystemExit):
        raise error
    assert code in ((0, 1, 2, 3) if arguments[0] == "diagnose" else (0, 1, 2)), result.output
    assert "Traceback" not in result.output
    assert CONTROLS.search(result.output) is None
    return code
