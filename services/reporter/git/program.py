"""Running the git program: nothing that a repository names is run, nothing is written, time is limited."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from services.reporter.core.git.evidence import Problem
from shared.errors import WorldloopError

LINE_BYTES = 1 << 20
"""What is kept of a longer line."""
STDERR_BYTES = 1500
SAFE = (
    ("core.fsmonitor", "false"),
    ("core.hooksPath", os.devnull),
    ("core.alternateRefsCommand", ""),
    ("log.showSignature", "false"),
)
"""What could start a program. The rest are flags (`core.git.commands.DIFF`) and the environment."""
KEPT = ("GIT_CONFIG_GLOBAL", "GIT_CEILING_DIRECTORIES", "GIT_EXEC_PATH")


class GitFailed(WorldloopError):
    """Git could not answer.

    Args:
        problem: Why, and what to do.
        late: The time was up.
    """

    def __init__(self, problem: Problem, *, late: bool = False) -> None:
        super().__init__(f"{problem.what} {problem.cure}")
        self.problem, self.late = problem, late


class Git:
    """The program, in one repository.

    Args:
        directory: The repository, or a directory in it.
        limit_sec: Seconds that all calls together may take.
    """

    def __init__(self, directory: Path, limit_sec: float) -> None:
        self._directory, self._limit_sec = directory, limit_sec
        self._end = time.monotonic() + limit_sec
        self.overrides = list(SAFE)
        """Configuration that holds whatever the repository says."""

    def lines(self, arguments: Iterable[str], given: Iterable[str] | None = None) -> Iterator[bytes]:
        """What git prints, line by line as it comes; a line is cut at `LINE_BYTES`.

        Args:
            arguments: After `git`.
            given: Lines for its stdin.

        Raises:
            GitFailed: There is no such program, it failed, or the time is up.
        """
        if time.monotonic() >= self._end:
            raise GitFailed(_too_long(self._limit_sec), late=True)
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
            for line in given or ():
                stdin.write(f"{line}\n".encode())
            stdin.seek(0)
            process = self._start(arguments, stdin.fileno() if given is not None else None, stderr.fileno())
            late = threading.Event()
            timer = threading.Timer(self._end - time.monotonic(), _end, (process, late))
            timer.start()
            try:
                assert process.stdout is not None
                yield from _cut(process.stdout)
                code = process.wait()
            finally:
                timer.cancel()
                if process.poll() is None:
                    process.kill()
                    process.wait()
                with contextlib.suppress(OSError):  # what it did not read any more
                    process.stdout.close() if process.stdout else None
            if late.is_set() and code != 0:
                raise GitFailed(_too_long(self._limit_sec), late=True)
            if code != 0:
                stderr.seek(0)
                raise GitFailed(_failure(self._directory, stderr.read(STDERR_BYTES).decode(errors="replace")))

    def text(self, *arguments: str) -> str:
        """What git prints, without the last newline.

        Raises:
            GitFailed: There is no such program, it failed, or the time is up.
        """
        return b"".join(self.lines(arguments)).decode(errors="backslashreplace").rstrip("\n")

    def answer(self, *arguments: str) -> str | None:
        """What git prints, or none where it says by its exit code that there is nothing.

        Raises:
            GitFailed: The time is up.
        """
        try:
            return self.text(*arguments)
        except GitFailed as failure:
            if failure.late:
                raise
            return None

    def _start(self, arguments: Iterable[str], stdin: int | None, stderr: int) -> subprocess.Popen[bytes]:
        settings = [part for key, value in self.overrides for part in ("-c", f"{key}={value}")]
        command = [
            "git",
            "--no-pager",
            "--no-replace-objects",
            "-C",
            str(self._directory),
            *settings,
            *arguments,
        ]
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=_environment(),
            )
        except FileNotFoundError:
            what, cure = (
                "There is no git program on this machine.",
                "Install git, then write the report again.",
            )
            raise GitFailed(Problem(what=what, cure=cure)) from None
        except OSError as error:
            what, cure = (
                f"Git could not be started: {error.strerror}.",
                "Give a smaller repository with --repo.",
            )
            raise GitFailed(Problem(what=what, cure=cure)) from None


def _environment() -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_") or key in KEPT}
    return own | {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",  # older ones fetch what a partial clone lacks: through no protocol
        "LC_ALL": "C",
        "LANGUAGE": "",
    }


def _cut(stream: Iterable[bytes]) -> Iterator[bytes]:
    read = stream.readline  # type: ignore[attr-defined]
    while line := read(LINE_BYTES):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = read(LINE_BYTES)
        yield line


def _end(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    process.kill()


def _too_long(limit_sec: float) -> Problem:
    return Problem(
        what=f"Git did not come to an end within {limit_sec:g} s.",
        cure="Give it more time, 'worldloop report git --limit-sec SECONDS', or a smaller one, --repo.",
    )


def _failure(directory: Path, words: str) -> Problem:
    said = " ".join(words.split())
    if "dubious ownership" in said or "safe.directory" in said:
        return Problem(
            what=f"Git refuses {directory}: it belongs to another user.",
            cure=f"If you trust it: 'git config --global --add safe.directory {directory}'.",
        )
    if "not a git repository" in said:
        return Problem(
            what=f"{directory} is no git repository, nor is a directory above it.",
            cure="Name one with --history-repo of 'worldloop train', or --repo of 'worldloop report git'.",
        )
    if "promisor" in said:
        return Problem(
            what=f"{directory} is a partial clone: files of its history are missing, and none are fetched.",
            cure="Clone it anew without --filter, or name a whole clone with --repo.",
        )
    return Problem(
        what=f"Git failed in {directory}: {said or 'it gave no reason'}.",
        cure="Look with 'git fsck'; a damaged clone is made anew with 'git clone'.",
    )
