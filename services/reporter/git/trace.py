"""Which commits changed a file that counts by the name it has now: one walk over all of a history's edges."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from services.reporter.core.git.names import Names
from services.reporter.core.git.question import Question
from services.reporter.core.git.reading import Change, changes
from services.reporter.git.program import Git


@dataclass(slots=True)
class Traced:
    """Commits that count, and their files."""

    files: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    """Commit -> name then -> name now."""
    where: dict[str, set[str]] = field(default_factory=dict)
    """Commit -> `path`, `lines`."""
    former: dict[bytes, set[bytes]] = field(default_factory=dict)
    """Name now -> other names of the file."""


def trace(
    git: Git,
    now: Collection[bytes],
    asked: Collection[str],
    question: Question,
    lines: Mapping[str, Collection[bytes]],
) -> Traced:
    """Follow the files that count back through the history.

    Args:
        git: The program.
        now: The files at HEAD that count.
        asked: The commits that may count.
        question: Which game's name in a path is a mention.
        lines: Commit -> its files, by the name then, with a changed line that mentions the game.

    Raises:
        GitFailed: Git could not answer.
    """
    names, found = Names(now), Traced()
    for commit, parents in _edges(git):
        then = names.leave(commit)
        shared: set[bytes] | None = None
        for parent, files in parents:
            changed = {change.path for change in files}
            shared = changed if shared is None else shared & changed
            if parent is not None:
                names.enter(parent, then, [(each.old, each.path) for each in files if each.old is not None])
        if commit in asked:
            for path in shared or ():
                file = names.name(then, path)
                where = _where(question, path, file, lines.get(commit, ()))
                if file is not None and where:
                    found.files.setdefault(commit, {})[path] = file
                    found.where.setdefault(commit, set()).update(where)
    found.former = names.former
    return found


def _where(question: Question, path: bytes, file: bytes | None, lines: Collection[bytes]) -> set[str]:
    named = {"path"} if file is not None and question.names(file) else set()
    return named | ({"lines"} if path in lines else set())


def _edges(git: Git) -> Iterator[tuple[str, list[tuple[str | None, list[Change]]]]]:
    """Each commit, children first, with what it changed against each of its parents."""
    walk = git.lines(["rev-list", "--topo-order", "--parents", "HEAD"])
    edges = [line.decode("ascii").split() for line in walk]
    pairs = [f"{commit} {parent}".rstrip() for commit, *parents in edges for parent in parents or [""]]
    arguments = ["diff-tree", "--stdin", "--always", "--root", "-r", "-M", "-l1000", "--name-status"]
    blocks = _blocks(git.lines(arguments, pairs))
    for commit, *parents in edges:
        of: list[str | None] = [*parents] or [None]
        yield commit, [(parent, next(blocks)) for parent in of]


def _blocks(lines: Iterator[bytes]) -> Iterator[list[Change]]:
    """The changes of each comparison, in order: each begins with a line without a tab, the commit's hash."""
    number = 0

    def place(line: bytes) -> int:
        nonlocal number
        number += b"\t" not in line
        return number

    for _, block in groupby(lines, place):
        yield list(changes(block))
