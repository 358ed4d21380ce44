"""Text of others in a report: shown as it is, and nothing in it becomes markdown, HTML or a command."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_MARKED = {ord(mark): f"&#{ord(mark)};" for mark in "\\`*[]|~$!#@"} | {
    ord("<"): "&lt;",
    ord(">"): "&gt;",
    ord("&"): "&amp;",
    ord("_"): "\\_",
}
_LINK = re.compile(r"(?<=[a-z]):(?=//)|(?<=www)\.", re.IGNORECASE)


def visible(text: str) -> str:
    """Text on one line: control and format characters (also those that turn the writing round) as escapes."""
    return "".join(_escaped(char) if _hidden(char) else char for char in text)


def inline(text: str) -> str:
    """Text within a sentence or a cell."""
    return _LINK.sub(lambda found: f"&#{ord(found[0])};", visible(text).translate(_MARKED))


def block(lines: Sequence[str], kind: str = "") -> list[str]:
    """Lines as they are, in a fence that none of them can end."""
    shown = [visible(line) for line in lines]
    longest = max((len(run) for line in shown for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}{kind}", *shown, fence]


def _hidden(char: str) -> bool:
    return char != "\t" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def _escaped(char: str) -> str:
    return char.encode("ascii", "backslashreplace").decode() if not char.isascii() else f"\\x{ord(char):02x}"
