"""Repositories for tests, made by plain git, and plain git's answer to a report's own command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from services.reporter.core.git.evidence import Evidence

NOON = "2025-06-01T12:00:00 +0000"


def clean() -> dict[str, str]:
    """An environment without anyone's configuration."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return own | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}


class Repo:
    """A repository that tests write to."""

    def __init__(self, path: Path, *options: str) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main", *options)

    def git(self, *arguments: str | bytes, given: bytes | None = None, **environment: str) -> str:
        identity = {f"GIT_{who}_{what}": text for who in ("AUTHOR", "COMMITTER") for what, text in
                    (("NAME", "Ada"), ("EMAIL", "ada@example.org"), ("DATE", NOON))}  # fmt: skip
        found = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            input=given,
            check=False,
            capture_output=True,
            env=clean() | identity | environment,
        )
        assert found.returncode == 0, found.stderr.decode(errors="replace")
        return found.stdout.decode(errors="replace").strip()

    def write(self, files: Mapping[str, str | bytes | None]) -> None:
        for name, content in files.items():
            path = self.path / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def commit(
        self,
        message: str,
        files: Mapping[str, str | bytes | None] | None = None,
        date: str = NOON,
        **environment: str,
    ) -> str:
        """Commit everything there is; returns the hash."""
        self.write(files or {})
        self.git("add", "-A")
        self.git(
            "commit", "-q", "--allow-empty", "-m", message, **({"GIT_COMMITTER_DATE": date} | environment)
        )
        return self.git("rev-parse", "HEAD")

    def plain(self, evidence: Evidence) -> set[str]:
        """What plain git says: the report's command, run by bash as a reader would."""
        if not evidence.command:
            return set()
        found = subprocess.run(
            ["bash", "-c", evidence.command],
            cwd=self.path,
            capture_output=True,
            text=True,
            env=clean(),
            check=False,
        )
        assert found.stderr == ""
        return set(found.stdout.split())


def subjects(evidence: Evidence) -> set[str]:
    return {commit.subject for commit in evidence.commits}


def hashes(evidence: Evidence) -> set[str]:
    return {commit.hash for commit in evidence.commits}
