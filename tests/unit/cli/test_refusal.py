"""What the operating system refuses is one line that names the file and the cure, and no traceback."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from services import cli
from services.commands.terminal.refusal import GONE, refusal


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "a.yaml"),
            "a.yaml: Permission denied. Run it",
        ),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device. Make room there"),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), b"b"), "b: No such file or directory"),
        (OSError("cut off"), "cut off"),
    ],
)
def test_an_error_of_the_system_names_the_file_and_the_cure(error: OSError, text: str) -> None:
    assert refusal(error).startswith(text)


def test_where_the_current_directory_is_gone_the_error_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(sys, "argv", ["worldloop", "bundle", "list"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"worldloop: {GONE}\n"


def test_too_little_memory_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask() -> None:
        raise MemoryError("(1.0 TiB for an array)")

    monkeypatch.setattr(cli, "app", ask)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert (
        capsys.readouterr().err == "worldloop: there is not enough memory for that (1.0 TiB for an array)\n"
    )
