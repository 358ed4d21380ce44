"""`worldloop report git`: asks a repository now, for a run or by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from services.commands import places
from services.commands.terminal.output import say, say_json
from services.reporter import git_evidence
from services.reporter.bundled import newest
from services.reporter.config import Policy
from services.reporter.core.git.evidence import Evidence
from services.reporter.core.git.question import Mode, Question, question
from services.reporter.core.git.report import report
from services.reporter.git.audit import audit
from services.reporter.kinds import Request
from shared.bundle import write_atomic
from shared.errors import BundleError, UsageError
from shared.home import expanded


@dataclass(frozen=True, slots=True)
class GitOptions:
    """What the command is asked for; what is none is the run's, else the policy's default."""

    run: str | None
    root: Path
    repository: Path | None = None
    game: str | None = None
    year: int | None = None
    mode: Mode | None = None
    into: Path | None = None
    limit_sec: float = 300.0


def report_git(options: GitOptions, *, as_json: bool) -> int:
    """Ask, and write the report: as a run's own into its bundle, another question's to `into` or stdout.

    Args:
        options: What is asked for.
        as_json: Print the evidence as one JSON object instead of the report.

    Returns:
        0 if the history could be read, else 1; the report is written in both cases.

    Raises:
        WorldloopError: No such run or directory, or no game is named.
    """
    request = _request(options)
    asked, repository = _question(options, request)
    if not repository.is_dir():
        raise UsageError(f"--repo {repository}: there is no such directory")
    evidence = audit(repository.absolute(), asked, limit_sec=options.limit_sec)
    own = request is not None and asked == git_evidence.asked_by(request)[0] and options.repository is None
    path = _write(options, request if own else None, asked, evidence)
    if as_json:
        written = {"report": None if path is None else str(path), **evidence.model_dump(mode="json")}
        say_json(json.dumps(written, indent=2))
    else:
        say(str(path) if path is not None else report(evidence, str(repository)).rstrip("\n"))
    return 1 if evidence.problem is not None else 0


def _request(options: GitOptions) -> Request | None:
    """The run that was named; without a name the newest one, unless a game says that none is meant."""
    if options.run is None and options.game is not None:
        return None
    try:
        root = places.bundle_found(options.run, options.root)
    except BundleError:
        if options.run is not None:
            raise
        raise UsageError(f"no run under {options.root}: name one, or a game with --game") from None
    return newest(root)


def _question(options: GitOptions, request: Request | None) -> tuple[Question, Path]:
    if request is not None:
        own, repository = git_evidence.asked_by(request)
        game, year, mode = own.game, own.year, own.mode
    else:
        policy, repository, game = Policy(), Path(), ""
        year, mode = policy.history_audit_year, policy.history_audit_mode
    year = year if options.year is None else options.year
    asked = question(options.game or game, year, options.mode or mode)
    return asked, expanded(options.repository) if options.repository is not None else repository


def _write(options: GitOptions, own: Request | None, asked: Question, evidence: Evidence) -> Path | None:
    """Where the report went; none if it goes to stdout."""
    if options.into is not None:
        path = options.into / f"{git_evidence.name(asked)}-{datetime.now(UTC):%Y_%m_%d_%H_%M_%S}.md"
        try:
            write_atomic(path, report(evidence, evidence.repository.path))
        except OSError as error:
            raise UsageError(f"--into {options.into}: {error.strerror}") from None
        return path
    if own is None:
        return None
    try:
        return own.bundle.root / git_evidence.put(own, asked, evidence)
    except OSError as error:
        raise BundleError(f"{own.bundle.root}: the report cannot be written ({error})") from None
