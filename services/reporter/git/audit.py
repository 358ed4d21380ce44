"""Asking a repository: which commits count, and what is to be shown of them. A handful of git processes."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.reporter.core.git import commands
from services.reporter.core.git.commands import DIFF, LOG
from services.reporter.core.git.evidence import Commit, Evidence, File, Problem, Repository
from services.reporter.core.git.question import Question, file_pathspecs
from services.reporter.core.git.reading import COMMIT, changes, mentions
from services.reporter.git.program import Git, GitFailed
from services.reporter.git.trace import Traced, trace

LIMIT_SEC = 300.0
SHOWN_LINES, SHOWN_CHARS, SHOWN_FILES = 3, 160, 20
"""What is kept of a commit: lines of a file, characters of a line, files."""
PATCH = ("--src-prefix=a/", "--dst-prefix=b/", "-p", "-U0", "--inter-hunk-context=0")
GIVEN = ("--no-walk=unsorted", "--stdin", f"--format={COMMIT}%H")
FIELDS = "%H%x00%at%x00%an%x00%s"


@dataclass(slots=True)
class _Found:
    """A commit that counts, as it is put together."""

    where: set[str] = field(default_factory=set)
    lines: dict[bytes, list[bytes]] = field(default_factory=dict)
    """File -> the first lines."""
    counts: dict[bytes, int] = field(default_factory=dict)
    """File -> how many lines."""
    now: dict[bytes, bytes] = field(default_factory=dict)
    """File -> what it is called now."""

    def see(self, path: bytes, line: bytes | None) -> None:
        """A file, or a line of it."""
        shown, count = self.lines.setdefault(path, []), self.counts.setdefault(path, 0)
        if line is not None:
            self.counts[path] = count + 1
            if len(shown) < SHOWN_LINES:
                shown.append(line)


def audit(directory: Path, question: Question, *, limit_sec: float = LIMIT_SEC) -> Evidence:
    """Ask a repository.

    Args:
        directory: The repository, or a directory in it.
        question: What is asked for.
        limit_sec: Seconds that git may take for all of it.

    Returns:
        What was found; where git could not answer, `problem` says why and the rest is empty.
    """
    repository = Repository(path=str(directory))
    git = Git(directory, limit_sec)
    try:
        repository = _look(git, directory)
        if repository.head is not None:
            return _ask(git, question, repository)
        return _evidence(question, repository, problem=_empty(directory))
    except GitFailed as failure:
        return _evidence(question, repository, problem=failure.problem)


def unasked(directory: Path, question: Question) -> Evidence:
    """What is known of a repository that nobody asked."""
    problem = Problem(
        what="The repository was not asked when this run ended.", cure="Ask it: 'worldloop report git RUN'."
    )
    return _evidence(question, Repository(path=str(directory)), problem=problem)


def _look(git: Git, directory: Path) -> Repository:
    """The state of the repository; from here on no filter that it configures is run."""
    version = git.text("version").removeprefix("git version ")
    bare, shallow = git.text("rev-parse", "--is-bare-repository", "--is-shallow-repository").splitlines()
    keys = [
        key.rstrip(b"\n")
        for key in b"".join(git.lines(["config", "--list", "-z", "--name-only"])).split(b"\0")
    ]
    filters = [key.decode(errors="surrogateescape") for key in keys if key.lower().startswith(b"filter.")]
    git.overrides += [
        (key, "false" if key.endswith(".required") else "") for key in filters if "=" not in key
    ]
    head = git.answer("rev-parse", "--verify", "--quiet", "HEAD^{commit}")  # none: no commit yet
    branch = git.answer("symbolic-ref", "--quiet", "--short", "HEAD")  # none: HEAD names a commit
    hidden = any("=" in key for key in filters)
    changed = None  # not to be told without a working tree, or where a filter could not be turned off
    if bare != "true" and head is not None and not hidden:
        changed = git.answer("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    return Repository(
        path=str(directory),
        head=head,
        branch=branch,
        dirty=None if changed is None else bool(changed),
        shallow=shallow == "true",
        replaced=len(git.text("for-each-ref", "--format=%(refname)", "refs/replace/").splitlines()),
        grafts=bool(_kept(git, "info/grafts")),
        bare=bare == "true",
        git=version,
    )


def _ask(git: Git, question: Question, repository: Repository) -> Evidence:
    start, end = question.seconds
    times = dict(_walk(git, commands.walk()))
    of_year = {commit: time for commit, time in times.items() if start <= time < end}
    total = len(times)
    del times
    left_out: set[str] = set()
    names: Mapping[bytes, Collection[bytes]] = {}
    if question.mode == "strict":
        found = _lines(git, question, of_year, file_pathspecs())
    elif question.mode == "wide":
        found = _wide(git, question, of_year)
    else:
        found, names, left_out = _current(git, question, of_year)
    edge = _kept(git, "shallow") if repository.shallow else set()
    commits = [_commit(*row, of_year[row[0]], found[row[0]], row[0] in edge) for row in _heads(git, found)]
    return _evidence(
        question,
        repository,
        commits=tuple(sorted(commits, key=lambda commit: (-commit.committed, commit.hash))),
        of_year=len(of_year),
        all_commits=total,
        left_out=tuple(sorted(left_out)),
        command=commands.script(question, names) if question.mode != "current_paths" or names else "",
    )


def _wide(git: Git, question: Question, of_year: Mapping[str, int]) -> dict[str, _Found]:
    touching = {commit for commit, _ in _walk(git, commands.touching()) if commit in of_year}
    found = _lines(git, question, touching)
    for where, command in (("message", commands.in_message(question)), ("path", commands.in_paths(question))):
        for commit, _ in _walk(git, command):
            if commit in touching:
                found.setdefault(commit, _Found()).where.add(where)
    for change in changes(_given(git, found, [*DIFF, "--name-status"], file_pathspecs())):
        found[change.commit].see(change.path, None)
    return found


def _current(
    git: Git, question: Question, of_year: Mapping[str, int]
) -> tuple[dict[str, _Found], Mapping[bytes, Collection[bytes]], set[str]]:
    empty = git.text("hash-object", "-t", "tree", os.devnull)
    tree = ["diff-tree", "-r", "-z", "--no-renames", "--name-only", empty, "HEAD", "--", *file_pathspecs()]
    now = b"".join(git.lines(tree)).split(b"\0")[:-1]
    inside = _lines(git, question, of_year)
    traced: Traced = trace(
        git, now, of_year, question, {commit: set(each.counts) for commit, each in inside.items()}
    )
    names = {
        path: {path, *traced.former.get(path, ())}
        for files in traced.files.values()
        for path in files.values()
    }
    by_git = {
        commit
        for command in commands.of_names(question, names)
        for commit, _ in _walk(git, command)
        if commit in of_year
    }
    found: dict[str, _Found] = {}
    for commit, files in traced.files.items():
        if commit in by_git:
            found[commit] = each = _Found(where=traced.where[commit], now=files)
            for path in files:
                each.counts[path] = inside[commit].counts.get(path, 0) if commit in inside else 0
                each.lines[path] = inside[commit].lines.get(path, []) if commit in inside else []
    return found, names, by_git - found.keys()


def _lines(
    git: Git, question: Question, hashes: Collection[str], paths: Iterable[str] = ()
) -> dict[str, _Found]:
    """Those of the commits that mention the game in changed lines, with the lines."""
    found: dict[str, _Found] = {}
    arguments = [*DIFF, *PATCH, *commands.mentioning(question)]
    for mention in mentions(_given(git, hashes, arguments, paths), question.mention):
        each = found.setdefault(mention.commit, _Found(where={"lines"}))
        each.see(mention.path, mention.line)
    return found


def _walk(git: Git, command: list[str]) -> Iterator[tuple[str, int]]:
    files, commit, time = commands.lists_files(command), "", 0
    for line in git.lines(command):
        listed = b"\t" in line  # a file, whose status stands before it
        if not listed and line.strip():
            commit, _, seconds = line.decode("ascii", "replace").strip().partition(" ")
            time = int(seconds or 0)
        if listed or (not files and line.strip()):
            yield commit, time


def _given(
    git: Git, hashes: Collection[str], arguments: list[str], paths: Iterable[str] = ()
) -> Iterator[bytes]:
    """What git prints of these commits; without any, it would begin at HEAD."""
    if hashes:
        yield from git.lines([*LOG, *GIVEN, *arguments, "--", *paths], hashes)


def _heads(git: Git, hashes: Collection[str]) -> Iterator[tuple[str, int, str, str]]:
    if hashes:
        for line in git.lines(
            [*LOG, "--no-walk=unsorted", "--stdin", "--no-patch", f"--format={FIELDS}"], hashes
        ):
            commit, time, author, subject = (
                part.decode(errors="backslashreplace") for part in line.split(b"\0")
            )
            yield commit, int(time or 0), author, subject.rstrip("\n")


def _kept(git: Git, name: str) -> set[str]:
    """The words of a file among the repository's own."""
    path = Path(git.text("rev-parse", "--path-format=absolute", "--git-path", name))
    try:
        return set(path.read_text(errors="replace").split())
    except OSError:
        return set()


def _commit(
    commit: str, authored: int, author: str, subject: str, committed: int, found: _Found, boundary: bool
) -> Commit:
    paths = sorted(found.counts, key=lambda path: (-found.counts[path], path))
    return Commit(
        hash=commit,
        committed=committed,
        authored=authored,
        author=_shown(author.encode()),
        subject=_shown(subject.encode()),
        where=tuple(name for name in ("message", "path", "lines") if name in found.where),
        files=tuple(_file(path, found) for path in paths[:SHOWN_FILES]),
        more_files=max(len(paths) - SHOWN_FILES, 0),
        boundary=boundary,
    )


def _file(path: bytes, found: _Found) -> File:
    now = found.now.get(path, path)
    return File(
        path=_shown(path, None),
        now=_shown(now, None) if now != path else None,
        lines=found.counts[path],
        shown=tuple(map(_shown, found.lines[path])),
    )


def _shown(text: bytes, limit: int | None = SHOWN_CHARS) -> str:
    found = text.decode(errors="backslashreplace")
    return found if limit is None or len(found) <= limit else found[: limit - 1] + "…"


def _evidence(question: Question, repository: Repository, **found: object) -> Evidence:
    return Evidence.model_validate(
        {
            "game": question.game,
            "year": question.year,
            "mode": question.mode,
            "expression": question.expression,
            "repository": repository,
            **found,
        }
    )


def _empty(directory: Path) -> Problem:
    return Problem(
        what=f"The repository {directory} has no commit yet.",
        cure="Commit the training code, or name another repository with --repo.",
    )
