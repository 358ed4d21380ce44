"""What an operator asks for, and whether it was accepted."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, JsonValue

from shared.events.base import Command, Document, Event, Service, Stage
from shared.events.plans import RunSpec


class OperatorCommand(Command):
    """An operator's wish; the gatekeeper appends it as an event before it is acked."""

    service: ClassVar[Service] = "gatekeeper"
    request_id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """Chosen by the sender, so that the same wish sent twice counts once."""

    def id_parts(self) -> tuple[object, ...]:
        """Name and request."""
        return (self.request_id,)


class StartRun(OperatorCommand):
    """Start a run, or queue it behind the one the trainer works on."""

    name: ClassVar[str] = "start_run"
    spec: RunSpec


class PauseRun(OperatorCommand):
    """Pause at the next gate."""

    name: ClassVar[str] = "pause_run"


class ResumeRun(OperatorCommand):
    """Go on with a paused, stopped or failed run; budgets start anew."""

    name: ClassVar[str] = "resume_run"


class StopRun(OperatorCommand):
    """End the chunk after its current update and a checkpoint, then report."""

    name: ClassVar[str] = "stop_run"
    reason: str = "the operator asked"


class RetuneRun(OperatorCommand):
    """Patch the next plan: knobs only, floors kept, no budget spent."""

    name: ClassVar[str] = "retune_run"
    changes: dict[str, JsonValue]
    """Knob -> new value; architecture keys are refused."""
    stage: Stage | None = None
    """Stage to patch; none is the current one."""


class OperatorRequested(Event):
    """An operator's command was accepted."""

    name: ClassVar[str] = "operator_requested"
    request: Literal["start_run", "pause_run", "resume_run", "stop_run", "retune_run"]
    request_id: str
    arguments: Document = {}
    """The command's own fields."""

    def id_parts(self) -> tuple[object, ...]:
        """The request."""
        return (self.request, self.request_id)


class CommandRejected(Event):
    """An operator's command was refused."""

    name: ClassVar[str] = "command_rejected"
    request: str
    request_id: str
    reason: str

    def id_parts(self) -> tuple[object, ...]:
        """The request."""
        return (self.request, self.request_id)
