"""What is asked of a history: which game, which year, which files, and how git is told so."""

from __future__ import annotations

import re
from calendar import timegm
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from shared.datasets.names import plain
from shared.errors import UsageError

Mode = Literal["strict", "wide", "current_paths"]
MODES: tuple[Mode, ...] = get_args(Mode)

FILES = {
    "training": ("**/train*", "**/train*/**", "**/*[_.-]train*"),
    "inference": ("**/infer*", "**/infer*/**", "**/*[_.-]infer*"),
    "config": ("**/config*", "**/config*/**", "**/*.yaml", "**/*.yml"),
    "model": ("**/models/**", "shared/worldmodel/**"),
}
"""Kind -> patterns of its files: `*` is any part of a name, `**` any directories; case does not matter."""

ALIASES = {"pole": "pole_position"}
"""Short name -> game. It also counts as a mention where it stands as a word of its own."""
LAST_YEAR = 9998


@dataclass(frozen=True, slots=True)
class Question:
    """What the audit is asked for."""

    game: str
    """Lower-case letters, digits and underscores."""
    year: int
    mode: Mode

    @property
    def seconds(self) -> tuple[int, int]:
        """The year in UTC: its first second, and the first one after it, since 1970."""
        return timegm((self.year, 1, 1, 0, 0, 0)), timegm((self.year + 1, 1, 1, 0, 0, 0))

    @property
    def expression(self) -> str:
        """A mention, as POSIX extended regular expression; case does not matter."""
        named = "[ _-]?".join(self._words)
        return "|".join([named, *(f"(^|[^a-z0-9]){short}([^a-z0-9]|$)" for short in self._short)])

    @property
    def mention(self) -> re.Pattern[bytes]:
        """The same for Python, over bytes."""
        return re.compile(self.expression.encode(), re.IGNORECASE)

    @property
    def named_paths(self) -> tuple[str, ...]:
        """Pathspecs of the paths with a mention in the name of the file or of a directory."""
        joints = product(("_", "-", " ", ""), repeat=len(self._words) - 1)
        globs = [
            "*" + "".join(map("".join, zip(self._words, (*joint, ""), strict=True))) + "*" for joint in joints
        ]
        for short in self._short:
            before, after = ("", "*[!a-z0-9]"), ("", "[!a-z0-9]*")
            globs += [f"{left}{short}{right}" for left, right in product(before, after)]
        return tuple(pathspec(f"**/{glob}{below}") for glob in globs for below in ("", "/**"))

    def names(self, path: bytes) -> bool:
        """Whether a path has a mention in the name of the file or of a directory."""
        return any(self.mention.search(part) for part in path.split(b"/"))

    @property
    def _words(self) -> list[str]:
        return self.game.split("_")

    @property
    def _short(self) -> list[str]:
        return [short for short, game in ALIASES.items() if game == self.game]


def question(game: str, year: int, mode: Mode) -> Question:
    """A question, its game by any of its names.

    Raises:
        UsageError: The name has no letter or digit, or there is no such year.
    """
    name = plain(game)
    if not name:
        raise UsageError(f"--game {game!r}: a game's name has letters or digits, like zelda or pole_position")
    if not 1970 <= year <= LAST_YEAR:
        raise UsageError(f"--year {year}: git knows the years from 1970; the audit takes them to {LAST_YEAR}")
    return Question(ALIASES.get(name, name), year, mode)


def pathspec(pattern: str) -> str:
    """A pattern as git takes it, from the root of the repository wherever it is asked."""
    return f":(top,glob,icase){pattern}"


def file_pathspecs() -> tuple[str, ...]:
    """The training, inference, config and model files."""
    return tuple(pathspec(pattern) for patterns in FILES.values() for pattern in patterns)
