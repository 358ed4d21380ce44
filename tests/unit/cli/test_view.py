"""A run in a terminal: golden pictures of the view, and what must hold of any.

WORLDLOOP_WRITE_VIEWS=1 pytest tests/unit/cli/test_view.py    writes the pictures anew
"""

from __future__ import annotations

import io
import os
import re
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from services.commands.terminal import view as module
from services.commands.terminal.painter import Painter, signs, write
from services.commands.terminal.text import ASCII, UNICODE, Signs, clean, duration, fit, levels, span
from services.commands.terminal.view import view
from services.reporter.core.page.model import Note, Page
from tests.unit.cli import pages

FOLDER = Path(__file__).with_name("views")
HINT = "Ctrl-C leaves; the run goes on"
EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m[bold red]a\rb\nc\u202etxt.\u2028\ud800\u200b["
SIZES: list[tuple[str, int, int | None, Signs]] = [
    ("training_80x24", 80, 24, UNICODE),
    ("training_120x40", 120, 40, UNICODE),
    ("training_40x24", 40, 24, UNICODE),
    ("training_80x24_ascii", 80, 24, ASCII),
    ("ended_100", 100, None, UNICODE),
]


def drawn(page: Page, width: int, height: int | None, alphabet: Signs = UNICODE) -> list[Text]:
    return view(
        page, {"dynamics": pages.history()}, width=width, height=height, signs=alphabet, zone=UTC, hint=HINT
    )


def plain(lines: list[Text]) -> str:
    return "".join(f"{line.plain.rstrip()}\n" for line in lines)


@pytest.mark.parametrize(("name", "width", "height", "alphabet"), SIZES)
def test_the_view_looks_as_in_its_picture(name: str, width: int, height: int | None, alphabet: Signs) -> None:
    text = plain(drawn(pages.ended() if name.startswith("ended") else pages.page(), width, height, alphabet))
    picture = FOLDER / f"{name}.txt"
    if os.environ.get("WORLDLOOP_WRITE_VIEWS"):
        picture.write_text(text, encoding="utf-8")
    assert text == picture.read_text(encoding="utf-8")


@pytest.mark.parametrize("height", [None, 3, 8, 24, 100])
@pytest.mark.parametrize("width", [10, 20, 39, 80, 300])
@pytest.mark.parametrize("alphabet", [UNICODE, ASCII])
def test_no_line_is_wider_than_the_terminal_nor_are_there_more_than_it_has(
    width: int, height: int | None, alphabet: Signs
) -> None:
    for page in (pages.page(), pages.ended()):
        lines = drawn(page, width, height, alphabet)
        assert max(line.cell_len for line in lines) <= width
        assert height is None or len(lines) <= height
        assert alphabet is UNICODE or plain(lines).isascii()


def test_where_little_has_room_it_is_what_matters() -> None:
    text = plain(drawn(pages.page(), 80, 14))
    for part in ("running", "Training dynamics", "ETA 04:09", "450/900", "Alert: progress", HINT):
        assert part in text
    assert "picture" not in text


def test_a_failed_check_stands_first_with_its_limit() -> None:
    text = plain(drawn(pages.page(), 80, 24))
    assert "  ✗ delta 0.9 (limit 0.2)  ✓ final_loss 1.31 (limit 5)\n" in text
    assert "dynamics at 600, attempt 2: retune rolled back" in text


def test_what_was_rolled_back_is_drawn_otherwise_also_without_colour() -> None:
    lines = [line for line in plain(drawn(pages.page(), 80, 40)).splitlines() if "·" in line]
    assert lines[0] == "loss  dynamics; · was rolled back"
    assert len(lines) > 2
    (gates,) = [
        line for line in plain(drawn(pages.page(), 80, 40)).splitlines() if line.strip().startswith("gates ")
    ]
    assert gates.split() == ["gates", "✓", "✗"]


def everywhere(value: Any) -> Any:
    """Every string of a document with something evil in it, but for those of fixed words."""
    fixed = {"status", "state", "stage", "service", "level", "decision", "verdict", "name", "actions", "id"}
    if isinstance(value, dict):
        return {key: each if key in fixed else everywhere(each) for key, each in value.items()}
    if isinstance(value, list):
        return [everywhere(each) for each in value]
    return f"{value}{EVIL}" if isinstance(value, str) else value


@pytest.mark.parametrize("height", [24, None])
def test_no_escape_sequence_of_a_run_reaches_the_terminal(height: int | None) -> None:
    for page in (pages.page(), pages.ended()):
        hostile = Page.model_validate(everywhere(page.model_dump()))
        file = io.StringIO()
        console = Console(file=file, width=80, force_terminal=True, color_system="truecolor")
        write(console, drawn(hostile, 80, height))
        left = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())  # rich's own colours
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028\u202e\ud800]", left)
        assert "[bold red]a b c?txt" in left  # no markup either


def test_a_line_is_clean_character_for_character_and_styles_stay() -> None:
    line = fit(Text.assemble("a\x1b[31mb", ("c\u0301d", "red")), 80)
    assert line.plain == "a?[31mbc?d"
    assert [(span.start, span.end) for span in line.spans] == [(7, 10)]
    assert clean("ünder\tline", ASCII) == "?nder line"
    assert clean("日本 ✓") == "日本 ✓"


def test_wide_letters_are_cut_by_their_cells() -> None:
    assert fit(Text("日本日本日本"), 7).cell_len <= 7


def test_a_thousand_gates_cost_no_more_lines_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = 0

    def counting(line: Text, width: int, alphabet: Signs) -> Text:
        nonlocal fitted
        fitted += 1
        return fit(line, width, alphabet)

    monkeypatch.setattr(module, "fit", counting)
    gates = [pages.gate(number, 300 * number) for number in range(1, 1001)]
    attempts = [pages.attempt(number, 300 * number - 300, 300 * number) for number in range(1, 1001)]
    notes = [Note(id=str(number), time=pages.NOW, level="watch", text="x") for number in range(1000)]
    page = pages.page(gates=gates, attempts=attempts, notes=notes)
    assert len(drawn(page, 80, 24)) == fitted == 24
    fitted = 0
    assert len(drawn(page, 80, None)) == fitted < 100


def test_a_run_of_which_nothing_is_known_yet_has_a_view() -> None:
    empty = pages.page(
        stages=[],
        gates=[],
        attempts=[],
        sheets=[],
        notes=[],
        gpus=[],
        services=[],
        eta=None,
        bundle="",
        profile="",
    )
    assert plain(view(empty, {}, width=80, zone=UTC)).startswith("running  20260102_030405")


# --- drawing ----------------------------------------------------------------------------------------------


class Terminal:
    """What a terminal of 20 x 4 shows of what is written to it: positions, erased lines, text; no colours."""

    def __init__(self) -> None:
        self.file = io.StringIO()
        self.console = Console(file=self.file, width=20, height=4, force_terminal=True, no_color=True)
        self.rows = [""] * 4

    def take(self) -> str:
        """Read what was written; the bytes."""
        written = self.file.getvalue()
        self.file.seek(0)
        self.file.truncate()
        row = 0
        for place, erase, text in re.findall(
            r"(?:\x1b\[(\d+);1H|(\x1b\[2J)|(.))", re.sub(r"\x1b\[(K|\?\w+)", "", written)
        ):
            if place:
                row = int(place) - 1
                self.rows[row] = ""
            elif erase:
                self.rows = [""] * 4
            else:
                self.rows[row] += text
        return written


def test_only_lines_that_changed_are_written_again() -> None:
    terminal = Terminal()
    with Painter(terminal.console) as painter:
        painter.draw([Text("head"), Text("x" * 20), Text("1 s")])
        terminal.take()
        assert terminal.rows == ["head", "x" * 20, "1 s", ""]
        painter.draw([Text("head"), Text("x" * 20), Text("2 s")])
        assert terminal.take() == "\x1b[3;1H\x1b[K2 s"
        painter.draw([Text("head"), Text("x" * 20), Text("2 s")])
        assert terminal.take() == ""
        painter.draw([Text("head"), Text("short")])
        terminal.take()
        assert terminal.rows == ["head", "short", "", ""]


def test_another_size_of_the_terminal_draws_everything_anew() -> None:
    terminal = Terminal()
    with Painter(terminal.console) as painter:
        painter.draw([Text("head"), Text("line")])
        terminal.take()
        terminal.console.size = (30, 4)
        painter.draw([Text("head"), Text("line")])
        assert "head" in terminal.take()


def test_the_screen_that_was_there_comes_back() -> None:
    terminal = Terminal()
    with Painter(terminal.console):
        pass
    assert terminal.take() == "\x1b[?1049h\x1b[?25l\x1b[?25h\x1b[?1049l"


def test_without_colours_none_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    file = io.StringIO()
    write(Console(file=file, width=80, force_terminal=True), drawn(pages.page(), 80, 24))
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", file.getvalue())


def test_the_alphabet_is_the_terminals() -> None:
    def of(encoding: str) -> Signs:
        return signs(Console(file=io.TextIOWrapper(io.BytesIO(), encoding=encoding)))

    assert of("utf-8") is UNICODE
    assert of("ascii") is ASCII


# --- words ------------------------------------------------------------------------------------------------


def test_durations_read_naturally() -> None:
    assert [duration(s) for s in (0, 61, 3700, 200_000)] == [
        "0 min 00 s",
        "1 min 01 s",
        "1 h 01 min",
        "2.3 d",
    ]


def test_spans_for_people() -> None:
    assert [span(value) for value in (0, 119, 120, 7199, 7200, 172800)] == [
        "0 s", "119 s", "2 min", "120 min", "2 h", "2 d",
    ]  # fmt: skip


def test_levels_have_a_sign_each() -> None:
    assert levels([0, 50, 100, None, 200], UNICODE) == "▁▅█ █"
    assert levels([0, 50, 100], ASCII) == "049"


def test_services_that_nobody_listened_to_are_not_said_to_be_unheard() -> None:
    heard = pages.page()
    rows = [row.model_copy(update={"heard": None, "working_on": []}) for row in heard.services]
    unheard = pages.page(services=rows)
    assert "heard" in plain(drawn(heard, 100, None))
    shown = plain(drawn(unheard, 100, None))
    assert "heard" not in shown
    assert "services    waiting  unsettled  dead letters" in shown


def test_a_run_that_was_only_asked_for_has_no_game_yet() -> None:
    asked = pages.page()
    asked = asked.model_copy(update={"run": asked.run.model_copy(update={"run_name": asked.run.run_id})})
    assert plain(drawn(asked, 100, None)).splitlines()[0] == f"running  {asked.run.run_id}  demo"
