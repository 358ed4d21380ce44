"""The git commands of the audit: as they are run, and as a reader can run them."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping

from services.reporter.core.git.question import Question, file_pathspecs

DIFF = (
    "--no-ext-diff", "--no-textconv", "--no-color", "--root", "-c", "-M", "-l1000",
    "--diff-algorithm=myers", "--no-indent-heuristic", "--submodule=short", "--no-relative", "-O/dev/null",
)  # fmt: skip
"""How commits are compared with their parents, whatever the configuration says: renames are found,
copies are not, merges count by the files in which they differ from all their parents, nothing is started."""
LOG = ("log", "--no-show-signature", "--no-notes", "--no-mailmap", "--no-decorate", "--encoding=UTF-8")
FILES_TOO = "--name-status"
EACH = ("--full-history", "--format=%H %ct")
"""Every commit that HEAD reaches, also those on branches whose result a merge did not take."""


def walk(*selection: str, paths: Iterable[str] = ()) -> list[str]:
    """All commits that HEAD reaches and a selection takes: a line each, with the committer's time."""
    return [*LOG, *EACH, *selection, "HEAD", "--", *paths]


def touching() -> list[str]:
    """Commits that touch training, inference, config or model files."""
    return walk(paths=file_pathspecs())


def in_message(question: Question) -> list[str]:
    """Commits that mention the game in their message."""
    return walk("-i", "-E", f"--grep={question.expression}")


def in_paths(question: Question) -> list[str]:
    """Commits that touch a path with the game in it."""
    return walk(paths=question.named_paths)


def in_lines(question: Question, paths: Iterable[str] = ()) -> list[str]:
    """Commits that mention the game in changed lines.

    With the names of their files: git also prints merges that it has found nothing in.
    """
    return walk(FILES_TOO, *DIFF, *mentioning(question), paths=paths)


def mentioning(question: Question) -> list[str]:
    """Only files with a changed line that mentions the game."""
    return ["-i", "-E", f"-G{question.expression}"]


def literal(path: bytes) -> str:
    """A path and nothing else, as git takes it."""
    return f":(top,literal){path.decode(errors='surrogateescape')}"


def script(question: Question, names: Mapping[bytes, Collection[bytes]]) -> str:
    """Bash lines that print the hashes of the report's commits, in no order that matters.

    Args:
        question: What is asked for.
        names: In mode `current_paths`: each file of the report, as it is called now, with all its names.
    """
    if question.mode == "wide":
        mentions = [in_message(question), in_paths(question), in_lines(question)]
        return f"comm -12 <({_group(question, [touching()])}) <({_group(question, mentions)})"
    if question.mode == "strict":
        return _group(question, [in_lines(question, file_pathspecs())])
    return _group(question, of_names(question, names))


def lists_files(command: list[str]) -> bool:
    """Whether a command prints files, so that a commit without any is none that was found."""
    return FILES_TOO in command


def of_names(question: Question, names: Mapping[bytes, Collection[bytes]]) -> list[list[str]]:
    """Commits that mention the game in lines of files, or touch one that is named after the game now."""
    known = sorted({name for each in names.values() for name in each})
    named = sorted({name for now, each in names.items() if question.names(now) for name in each})
    found = [in_lines(question, map(literal, known))] if known else []
    return [*found, walk(paths=map(literal, named))] if named else found


def _group(question: Question, commands: list[list[str]]) -> str:
    lines = "".join(f"  {_line(command)} | {_of_year(question, command)}\n" for command in commands)
    return f"{{\n{lines}}} | sort -u"


def _of_year(question: Question, command: list[str]) -> str:
    """Awk's part: the hashes of the year; where files are listed, of commits that have one."""
    start, end = question.seconds
    if not lists_files(command):
        return f"awk '$2 >= {start} && $2 < {end} {{ print $1 }}'"
    return (
        "awk -F'\\t' 'NF == 1 { split($0, commit, \" \") } "
        f"NF > 1 && commit[2] >= {start} && commit[2] < {end} {{ print commit[1] }}'"
    )


def _line(arguments: list[str]) -> str:
    return " ".join(["git", "--no-replace-objects", *map(_word, arguments)])


def _word(text: str) -> str:
    """An argument for bash, in ASCII whatever it holds."""
    data = text.encode(errors="surrogateescape")
    if all(0x20 <= byte < 0x7F for byte in data):
        return shlex.quote(text)
    safe = set(b"/._:()-") | set(range(0x30, 0x3A)) | set(range(0x41, 0x5B)) | set(range(0x61, 0x7B))
    return "$'" + "".join(chr(byte) if byte in safe else f"\\{byte:03o}" for byte in data) + "'"
