"""Writing `<game>-<year>-git-evidence-*.md`: asks the repository once, and keeps the answer in the bundle."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from services.reporter.core.git.evidence import Evidence
from services.reporter.core.git.question import Question, question
from services.reporter.core.git.report import report
from services.reporter.git.audit import audit, unasked
from services.reporter.kinds import Request
from shared.bundle import write_atomic
from shared.datasets.names import game_of
from shared.errors import BundleError


def write_git(request: Request) -> str:
    """Write the git evidence of a run; built again, it says what it said.

    Args:
        request: What is asked for; game, year, mode and repository are the run's.

    Returns:
        The report's path, relative to the bundle.

    Raises:
        BundleError: What was kept of the first time cannot be read.
        OSError: The disk refused.
    """
    asked, repository = asked_by(request)
    if request.again:
        return _write(request, asked, _read(_kept(request), repository, asked))
    return put(request, asked, audit(repository, asked))


def put(request: Request, asked: Question, evidence: Evidence) -> str:
    """Write evidence into a run's bundle, as its report and for the next time.

    Args:
        request: Of which run.
        asked: What the repository was asked for.
        evidence: Its answer.

    Returns:
        The report's path, relative to the bundle.
    """
    write_atomic(_kept(request), evidence.model_dump_json(indent=1) + "\n")
    return _write(request, asked, evidence)


def asked_by(request: Request) -> tuple[Question, Path]:
    """What a run asks for, and of which repository: `train` wrote it into the policy."""
    policy, training = request.policy, request.story.configuration.training
    game = game_of(Path(training.dataset))
    return question(game, policy.history_audit_year, policy.history_audit_mode), Path(
        policy.history_repo or "."
    )


def name(asked: Question) -> str:
    """The report's name, without stamp and ending."""
    return f"{asked.game}-{asked.year}-git-evidence"


def _write(request: Request, asked: Question, evidence: Evidence) -> str:
    path = request.path(name(asked))
    write_atomic(path, report(evidence, f"run {request.story.run_id}"))
    return request.bundle.relative(path)


def _kept(request: Request) -> Path:
    return request.bundle.logs / f"git_evidence_{request.story.stamp}.json"


def _read(path: Path, repository: Path, asked: Question) -> Evidence:
    try:
        return Evidence.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return unasked(repository, asked)
    except (OSError, ValidationError) as error:
        raise BundleError(
            f"{path} cannot be read ({error}). Ask the repository anew: `worldloop report git RUN`"
        ) from None
