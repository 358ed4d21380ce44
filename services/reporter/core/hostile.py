"""Text of others in a report: shown as it is, and nothing in it becomes markdown, HTML or a command.

Of others is whatever an event, a file or a repository says: names, reasons, errors, values of settings.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_MARKED = {ord(mark): f"&#{ord(mark)};" for mark in "\\`*[]|~$!#@"} | {
    ord("<"): "&lt;",
    ord(">"): "&gt;",
}
_ENTITY = re.compile(r"&(?=#?\w+;)")
_LINK = re.compile(r"(?<=[a-z]):(?=//)|(?<=www)\.", re.IGNORECASE)
_EMPHASIS = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
"""An underscore that is not inside a word: only such a one is a mark."""
_AWKWARD = re.compile(r"[`|\\]|^\s|\s$|^$")
"""What a span between backticks, in the cell of a table, does not show as it is."""


def visible(text: str) -> str:
    """Text on one line: control and format characters (also those that turn the writing round) as escapes."""
    return "".join(_escaped(char) if _hidden(char) else char for char in text)


def inline(text: str) -> str:
    """Text within a sentence or a cell."""
    marked = _ENTITY.sub("\0", visible(text.replace("\n", " "))).translate(_MARKED).replace("\0", "&amp;")
    return _LINK.sub(lambda found: f"&#{ord(found[0])};", _EMPHASIS.sub(r"\\_", marked))


def code(text: str) -> str:
    """A name, path or value in the type of code, within a sentence or a cell."""
    if _AWKWARD.search(text) or visible(text) != text:
        return f"<code>{inline(text)}</code>"
    return f"`{text}`"


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
