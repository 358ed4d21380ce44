"""What an audit found: kept beside the report as JSON, so that the report can be written again from it."""

from __future__ import annotations

from services.reporter.core.git.question import Mode
from shared.config import Config


class File(Config):
    """A file of a commit."""

    path: str
    now: str | None = None
    """What it is called now, where that is another name."""
    lines: int = 0
    """Changed lines that mention the game."""
    shown: tuple[str, ...] = ()
    """The first of them, cut."""


class Commit(Config):
    """A commit that counts."""

    hash: str
    committed: int
    """Seconds since 1970, UTC: the date that counts."""
    authored: int
    author: str
    subject: str
    where: tuple[str, ...]
    """Where the game is mentioned: message, path, lines."""
    files: tuple[File, ...] = ()
    more_files: int = 0
    boundary: bool = False
    """A shallow clone ends here, so that it looks as if it had brought everything."""


class Repository(Config):
    """The state it was found in."""

    path: str
    head: str | None = None
    branch: str | None = None
    """None: HEAD is detached."""
    dirty: bool | None = None
    """None: there is no working tree, or it was not looked at."""
    shallow: bool = False
    replaced: int = 0
    """Objects for which `git replace` shows others; the original ones were read."""
    grafts: bool = False
    """`info/grafts` gives commits other parents than they have."""
    bare: bool = False
    git: str = ""
    """Version of the program."""


class Problem(Config):
    """Why nothing could be asked, and what to do."""

    what: str
    cure: str


class Evidence(Config):
    """The answer."""

    game: str
    year: int
    mode: Mode
    expression: str
    repository: Repository
    problem: Problem | None = None
    commits: tuple[Commit, ...] = ()
    """Newest first."""
    of_year: int = 0
    """Commits of the year, whatever they are about."""
    all_commits: int = 0
    left_out: tuple[str, ...] = ()
    """Commits that the command gives and that do not count: the file of that name has another name now."""
    command: str = ""
    """Bash lines that give the same list."""
