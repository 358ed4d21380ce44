"""The text of `<game>-<year>-git-evidence-*.md`."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from services.reporter.core.git.evidence import Commit, Evidence, File
from services.reporter.core.git.question import FILES
from services.reporter.core.hostile import block, inline
from services.reporter.core.markdown import bullets, count_of, table

WITH_LINES = 100
"""Commits, the newest ones, whose lines are shown."""
FILES_IN_TABLE, FILES_SUMMED = 3, 200
AUTHORS = 5
RULES = {
    "strict": "a changed line of such a file mentions it",
    "wide": "its message, the path of any file it changed, or any changed line mentions it",
    "current_paths": "it changed a file that has such a name now, at HEAD, and a changed line of it or its "
    "name now mentions the game; renames are followed",
}


def report(evidence: Evidence, title: str) -> str:
    """The report.

    Args:
        evidence: What the audit found.
        title: Of which run it is, or of which repository.
    """
    lines = [
        f"# Git evidence: {inline(evidence.game)} in {evidence.year} ({inline(title)})",
        "",
        f"**What happened.** {_found(evidence)}",
        "",
        f"**What to trust.** {_trust(evidence)}",
        "",
        f"**What to do next.** {_next(evidence)}",
        "",
        "## What counts",
        "",
        *_rules(evidence),
    ]
    if evidence.problem is None:
        lines += ["", "## Commits", "", *_commits(evidence)]
        lines += ["", "## By month", "", *_months(evidence)]
        lines += ["", "## By file", "", *_files(evidence)]
        lines += ["", "## Lines", "", *_lines(evidence)]
        lines += ["", "## The same list from git", "", *_again(evidence)]
    return "\n".join(lines) + "\n"


def date(seconds: int) -> str:
    """Seconds since 1970 as a date and time, UTC."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def _found(evidence: Evidence) -> str:
    if evidence.problem is not None:
        return f"No history could be read: {inline(evidence.problem.what)}"
    asked = f"of {count_of(evidence.of_year, 'commit')} in {evidence.year}"
    if not evidence.commits:
        return f"None {asked} counts (mode `{evidence.mode}`)."
    first, last = evidence.commits[-1], evidence.commits[0]
    authors = Counter(commit.author for commit in evidence.commits)
    named = ", ".join(f"{inline(name)} ({count})" for name, count in _most(authors)[:AUTHORS])
    more = f" and {len(authors) - AUTHORS} more" if len(authors) > AUTHORS else ""
    counts = f"count{'s' if len(evidence.commits) == 1 else ''} (mode `{evidence.mode}`)"
    when = f"from {date(first.committed)} to {date(last.committed)} UTC"
    return f"{count_of(len(evidence.commits), 'commit')} {asked} {counts}, {when}, by {named}{more}."


def _trust(evidence: Evidence) -> str:
    place = evidence.repository
    where = f"Repository {inline(place.path)}"
    if evidence.problem is not None:
        return f"{where}: nothing of its history is known here."
    branch = f"branch {inline(place.branch)}" if place.branch is not None else "HEAD is detached"
    dirty = {
        True: "tracked files differ from HEAD, which no commit shows",
        False: "tracked files are as committed",
        None: "bare, no working tree" if place.bare else "working tree not looked at",
    }[place.dirty]
    shallow = (
        "**shallow: older commits are missing, and the oldest here look as if they had brought everything**"
        if place.shallow
        else "whole history"
    )
    if place.grafts:
        shallow += "; **`info/grafts` gives commits other parents than they have, which hides or adds some**"
    if place.replaced:
        shallow += f"; {count_of(place.replaced, 'object')} of `git replace` read as committed"
    return (
        f"{where}, HEAD `{place.head}`, {branch}; {dirty}; {shallow}; "
        f"{count_of(evidence.all_commits, 'commit')} reached from HEAD; git {inline(place.git)}."
    )


def _next(evidence: Evidence) -> str:
    if evidence.problem is not None:
        return inline(evidence.problem.cure)
    if evidence.repository.shallow:
        return "Fetch the rest with `git fetch --unshallow`, then write the report again."
    again = f"`worldloop report git --repo DIR --game {evidence.game} --year {evidence.year}"
    if not evidence.of_year:
        return f"Ask for a year in which something was committed: {again}` with another --year."
    if not evidence.commits and evidence.mode != "wide":
        return f"Look wider: {again} --mode wide`."
    if not evidence.commits:
        return "Nothing: the history does not mention the game beside such files in this year."
    return "Read the lines below; each commit can be looked at with `git show HASH`."


def _rules(evidence: Evidence) -> list[str]:
    text = (
        f"A commit counts if HEAD reaches it, its **committer date lies in {evidence.year} in UTC**, it "
        f"changed a training, inference, config or model file, and, in mode `{evidence.mode}`, "
        f"{RULES[evidence.mode]}. A mention is `{evidence.expression}`, case set aside."
    )
    return [
        text,
        "",
        *table(
            ("files", "patterns (`*` within a name, `**` any directories, case set aside)"),
            [(kind, ", ".join(f"`{pattern}`" for pattern in patterns)) for kind, patterns in FILES.items()],
        ),
    ]


def _commits(evidence: Evidence) -> list[str]:
    if not evidence.commits:
        return ["None."]
    return table(
        ("committed (UTC)", "commit", "author", "subject", "mention in", "files"),
        [
            (
                date(commit.committed) + _written(commit, evidence.year),
                f"`{commit.hash[:10]}`" + (" (end of the shallow clone)" if commit.boundary else ""),
                inline(commit.author),
                inline(commit.subject),
                ", ".join(commit.where),
                _named(commit),
            )
            for commit in evidence.commits
        ],
    )


def _written(commit: Commit, year: int) -> str:
    written = date(commit.authored)
    return "" if written.startswith(f"{year:04d}-") else f" (written {written})"


def _named(commit: Commit) -> str:
    rest = max(len(commit.files) - FILES_IN_TABLE, 0) + commit.more_files
    names = ", ".join(_name(file) for file in commit.files[:FILES_IN_TABLE])
    return f"{names} and {rest} more" if rest else names


def _name(file: File) -> str:
    return inline(file.path) + (f" (now {inline(file.now)})" if file.now is not None else "")


def _months(evidence: Evidence) -> list[str]:
    counts = Counter(date(commit.committed)[:7] for commit in evidence.commits)
    rows = [
        (month, counts[month]) for month in (f"{evidence.year:04d}-{number:02d}" for number in range(1, 13))
    ]
    return table(("month", "commits"), rows)


def _files(evidence: Evidence) -> list[str]:
    commits: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for commit in evidence.commits:
        for file in commit.files:
            commits[file.now or file.path] += 1
            lines[file.now or file.path] += file.lines
    if not commits:
        return ["None."]
    rows = [(inline(name), count, lines[name]) for name, count in _most(commits)[:FILES_SUMMED]]
    rest = len(commits) - len(rows)
    return [
        *table(("file", "commits", "changed lines with a mention"), rows),
        *([f"\n{rest} more files are not listed."] if rest else []),
    ]


def _lines(evidence: Evidence) -> list[str]:
    shown: list[str] = []
    with_lines = [commit for commit in evidence.commits if any(file.shown for file in commit.files)]
    for commit in with_lines[:WITH_LINES]:
        shown += [f"`{commit.hash[:10]}` {inline(commit.subject)}", ""]
        for file in commit.files:
            if file.shown:
                rest = file.lines - len(file.shown)
                more = [f"... and {rest} more"] if rest else []
                shown += [f"{_name(file)}:", "", *block([*file.shown, *more], "diff"), ""]
    if len(with_lines) > WITH_LINES:
        shown.append(f"Lines of {len(with_lines) - WITH_LINES} older commits are not shown.")
    return shown[:-1] if shown and not shown[-1] else shown or ["No changed line mentions the game."]


def _again(evidence: Evidence) -> list[str]:
    if not evidence.command:
        return ["There is nothing to list: no file that exists now was found."]
    lines = [
        "In the repository, with bash:"
        if not evidence.left_out
        else "In the repository, with bash; of these hashes the ones below do not count:",
        "",
        *block(evidence.command.splitlines(), "bash"),
    ]
    if evidence.left_out:
        why = "they changed a file that had such a name then and has another one now, or none"
        lines += [
            "",
            f"Left out, since {why}:",
            "",
            *bullets([f"`{each}`" for each in evidence.left_out], ""),
        ]
    return lines


def _most(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
