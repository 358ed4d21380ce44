"""Words, signs and lengths for the terminal: what any terminal can show, and nothing that it would obey.

Whatever comes from a run (names, reasons, paths) passes through `clean` before it is written: it takes out
escape sequences, line breaks, marks that turn the direction of writing. Lines are `rich.text.Text`, never
markup.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from rich.cells import cell_len
from rich.text import Text

from shared.errors import UsageError

GOOD, WATCH, BAD, DIM, BOLD = "green", "yellow", "red", "dim", "bold"
STYLES = {
    "passed": GOOD, "stage_completed": GOOD, "running": "cyan", "queued": WATCH, "paused": WATCH,
    "failed": BAD, "stopped": BAD, "continue": GOOD, "watch": WATCH, "retune": BAD, "restart_stage": BAD,
    "stop": BAD, "info": "", "good": GOOD, "bad": BAD, "complete": GOOD, "blocked": BAD, "training": "cyan",
    "at gate": "cyan",
}  # fmt: skip
"""Statuses, decisions, verdicts, levels and stage states; all of them are said in words too."""

DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d|)")
UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
LONGEST_SEC = 365 * 86400.0


@dataclass(frozen=True, slots=True)
class Signs:
    """What the terminal's alphabet has."""

    yes: str
    no: str
    done: str
    """Of a bar: accepted at a gate."""
    doing: str
    """Trained since."""
    todo: str
    old: str
    """A point of a curve that was rolled back."""
    point: str | None
    """A point of a curve; none draws with braille."""
    more: str
    levels: str
    """From nothing to all."""


UNICODE = Signs("✓", "✗", "█", "▓", "░", "·", None, "…", "▁▂▃▄▅▆▇█")
ASCII = Signs("+", "x", "#", "=", "-", ".", "*", "...", "0123456789")


def clean(text: str, signs: Signs = UNICODE) -> str:
    """The text with one harmless character for each that a terminal would obey, or could not show."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(char, signs) for char in text)


def _shown(char: str, signs: Signs) -> str:
    if char in "\t\n\r":
        return " "
    category = unicodedata.category(char)
    # Controls, marks of direction, halves of characters, and marks that pile up on the one before.
    hidden = category[0] == "C" or category in ("Zl", "Zp", "Mn", "Me")
    return "?" if hidden or (signs is ASCII and not char.isascii()) else char


def fit(line: Text, width: int, signs: Signs = UNICODE) -> Text:
    """The line, clean and cut to the width in cells."""
    shown = line.copy()
    shown.plain = clean(line.plain, signs)  # character for character, so that styles stay where they are
    if cell_len(shown.plain) > width:
        shown.truncate(max(0, width - len(signs.more)))
        shown.append(signs.more[:width])
    return shown


def flow(items: Iterable[Text], width: int, *, indent: int = 0) -> list[Text]:
    """Items side by side, two spaces between them; further lines are indented."""
    lines: list[Text] = []
    for item in items:
        if lines and lines[-1].cell_len + 2 + item.cell_len <= width:
            lines[-1].append("  ").append_text(item)
        else:
            lines.append(Text(" " * (max(2, indent) if lines else indent)).append_text(item))
    return lines


def columns(
    rows: Sequence[Sequence[Text]], width: int, *, right: Iterable[int] = (), drop: Sequence[int] = ()
) -> list[Text]:
    """Rows with their columns below each other, two spaces between them.

    Args:
        rows: As many cells each.
        width: Of the terminal, in cells.
        right: Columns whose cells end below each other.
        drop: Columns that are left out, in this order, as long as the rows are wider than the terminal.
    """
    right, drop = set(right), list(drop)
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    kept = list(range(len(widths)))
    while drop and sum(widths[at] + 2 for at in kept) - 2 > width:
        kept.remove(drop.pop(0))
    lines = []
    for row in rows:
        line = Text()
        for at in kept:
            gap = Text(" " * (widths[at] - row[at].cell_len))
            line = Text("  ").join(
                [line] * (at != kept[0]) + [gap + row[at] if at in right else row[at] + gap]
            )
        line.rstrip()
        lines.append(line)
    return lines


def styled(word: str) -> Text:
    """A status, decision, verdict or state in its colour."""
    return Text(word, style=STYLES.get(word, ""))


def number(value: float | None, digits: int = 4) -> str:
    """A measurement; `-` for none."""
    return "-" if value is None else f"{value:.{digits}g}"


TEST_NUMBERS = {
    "mse": "mse", "mse_standard": "mse_standard", "skill": "skill", "mean_frame_skill": "mean frame's skill",
    "psnr": "psnr", "ssim": "ssim", "tokenizer_mse": "tokenizer mse", "motion_ratio": "motion ratio",
    "delta_psnr": "delta-psnr", "seen_share": "seen share",
}  # fmt: skip
"""Numbers of the inference test -> their names for people."""


def measurements(numbers: Mapping[str, float | None]) -> list[tuple[str, str]]:
    """The numbers of an inference test that there are: name, and value with its 95 % interval if known."""
    found = []
    for key, name in TEST_NUMBERS.items():
        if (value := numbers.get(key)) is None:
            continue
        low, high = numbers.get(f"{key}_low"), numbers.get(f"{key}_high")
        interval = "" if low is None or high is None else f" ({number(low, 3)} to {number(high, 3)})"
        found.append((name, number(value) + interval))
    used, there = numbers.get("actions_in_use"), numbers.get("actions_total")
    if used is not None and there is not None:
        found.append(("action codes", f"{used:.0f}/{there:.0f}"))
    return found


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours >= 48:
        return f"{hours / 24:.1f} d"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"


def span(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def seconds(text: str) -> float:
    """A length of time as people write it: 30s, 10m, 4h, 1d; without a unit seconds.

    Raises:
        UsageError: It is none.
    """
    found = DURATION.fullmatch(text.strip())
    length = float(found[1]) * UNITS[found[2]] if found is not None else 0
    if not 0 < length <= LONGEST_SEC:
        raise UsageError(f"--every {text}: give a length of time such as 30s, 10m, 4h or 1d")
    return length


def clock(time: float, now: float, zone: tzinfo | None) -> str:
    """A time of day, with the date if it is not of today; in `zone`, none is local time."""
    at, today = (datetime.fromtimestamp(each, UTC).astimezone(zone) for each in (time, now))
    return f"{at:%H:%M}" if at.date() == today.date() else f"{at:%b %d %H:%M}"


def path_end(path: str, width: int, signs: Signs) -> str:
    """A path of at most so many cells; its end is what tells."""
    return path if cell_len(path) <= width else signs.more + path[-max(1, width - len(signs.more)) :]


def levels(values: Iterable[float | None], signs: Signs) -> str:
    """Percentages as a row of signs; a space for none."""
    top = len(signs.levels) - 1
    return "".join(
        " " if value is None else signs.levels[round(min(1.0, max(0.0, value / 100)) * top)]
        for value in values
    )


def size(amount: int | None) -> str:
    """Bytes in GB (10^9); `-` for none."""
    return "-" if amount is None else f"{amount / 1e9:.3g}"
