"""How a run waits, goes on and ends, and its reports."""

from __future__ import annotations

from typing import ClassVar, Literal

from shared.events.base import BundlePath, Command, Event, Service, Status


class WriteReports(Command):
    """Write the reports of a run's outcome."""

    name: ClassVar[str] = "write_reports"
    service: ClassVar[Service] = "reporter"
    outcome: Status
    reason: str
    degraded: bool
    kinds: list[str]
    ordinal: int = 1
    """Times the run came to an end: again after a resume, or when a required kind failed."""
    retry: int = 0

    def id_parts(self) -> tuple[object, ...]:
        """Ordinal and sending."""
        return (self.ordinal, self.retry)


class ReportWritten(Event):
    """A report was written, or could not be."""

    name: ClassVar[str] = "report_written"
    report: str
    """Kind: loop, inference, retrospective, git, wandb."""
    path: BundlePath | None
    ok: bool
    error: str | None = None
    ordinal: int = 1

    def id_parts(self) -> tuple[object, ...]:
        """Ordinal and kind."""
        return (self.ordinal, self.report)


class RunPaused(Event):
    """The run waits for the operator, or for evidence."""

    name: ClassVar[str] = "run_paused"
    by: Literal["operator", "evidence"]
    reason: str
    ordinal: int = 1

    def id_parts(self) -> tuple[object, ...]:
        """Ordinal."""
        return (self.ordinal,)


class RunResumed(Event):
    """The run goes on."""

    name: ClassVar[str] = "run_resumed"
    by: Literal["operator", "evidence"]
    reason: str
    ordinal: int = 1

    def id_parts(self) -> tuple[object, ...]:
        """Ordinal."""
        return (self.ordinal,)


class RunFinished(Event):
    """The end, until an operator resumes it."""

    name: ClassVar[str] = "run_finished"
    status: Status
    degraded: bool
    reason: str
    mode: str = "autoregressive"
    ordinal: int = 1

    def id_parts(self) -> tuple[object, ...]:
        """Ordinal."""
        return (self.ordinal,)
