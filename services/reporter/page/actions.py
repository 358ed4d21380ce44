"""What an operator asks for on the page, as the commands that the command line sends as well."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import uuid4

from pydantic import Field, JsonValue

from shared.config import Config
from shared.events import OperatorCommand, PauseRun, ResumeRun, RetuneRun, Stage, StopRun

Name = Literal["pause", "resume", "stop", "retune"]


class Wish(Config):
    """Pause, resume, stop."""

    reason: Annotated[str, Field(max_length=500)] = ""


class RetuneWish(Config):
    """Patch the next plan."""

    changes: Annotated[dict[str, JsonValue], Field(min_length=1)]
    stage: Stage | None = None


def command(run_id: str, name: Name, body: bytes) -> OperatorCommand:
    """The command behind a request.

    Args:
        run_id: The run.
        name: What is asked for.
        body: JSON object; empty for an empty one.

    Raises:
        ValidationError: The body is not what that action takes.
    """
    body, request_id = body or b"{}", uuid4().hex
    if name == "retune":
        wish = RetuneWish.model_validate_json(body)
        return RetuneRun(run_id=run_id, request_id=request_id, changes=wish.changes, stage=wish.stage)
    reason = Wish.model_validate_json(body).reason.strip()
    if name == "stop":
        return StopRun(
            run_id=run_id, request_id=request_id, reason=reason or "the operator asked on the page"
        )
    kind = PauseRun if name == "pause" else ResumeRun
    return kind(run_id=run_id, request_id=request_id)
