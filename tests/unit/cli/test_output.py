"""What reaches the terminal: nothing that it would obey, and nothing that it cannot show."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.table import Table

from services import cli
from services.commands.terminal.output import PLAIN_WIDTH, CleanConsole, say, say_json, warn

HOSTILE = "\x1b[2Jevil\x1b]0;title\x07 \x9b31m\u202e\r"
HARMLESS = "?[2Jevil?]0;title? ?31m? "


def test_lines_are_clean_and_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"one\n{HOSTILE}")
    warn(HOSTILE)
    assert capsys.readouterr() == (f"one\n{HARMLESS}\n", f"{HARMLESS}\n")


def test_json_says_what_it_said_without_controls(capsys: pytest.CaptureFixture[str]) -> None:
    say_json(json.dumps({"reason": HOSTILE, "name": "été"}, ensure_ascii=False))
    shown = capsys.readouterr().out
    assert json.loads(shown) == {"reason": HOSTILE, "name": "été"}
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown.rstrip("\n"))


def test_a_table_has_our_colours_and_nobody_elses() -> None:
    file = io.StringIO()
    table = Table()
    table.add_column("name", style="red")
    table.add_row(HOSTILE)
    CleanConsole(file=file, force_terminal=True, color_system="standard", width=60).print(table)
    shown = file.getvalue()
    assert "\x1b[31m?[2Jevil?]0;title" in shown
    assert shown.count("\x1b") == shown.count("\x1b[31m") + shown.count("\x1b[0m") + shown.count("\x1b[1m")


def test_a_file_has_room_for_long_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CleanConsole(file=io.StringIO()).width == 160  # COLUMNS, as in every test here
    monkeypatch.delenv("COLUMNS")
    assert CleanConsole(file=io.StringIO()).width == PLAIN_WIDTH
    assert CleanConsole(file=io.StringIO(), force_terminal=True, width=44).width == 44


def test_a_stream_that_cannot_show_a_sign_gets_another(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    say("größer ✓")
    stream.seek(0)
    assert stream.read() == "gr??er ?\n"


def test_an_error_that_quotes_a_hostile_name_is_clean(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["worldloop", "events", str(place / HOSTILE)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert HARMLESS.strip() in capsys.readouterr().err
