"""What did not come in time, or should not have been there."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from shared.events.base import Event, Service, Stage
from shared.events.chunk import ChunkEvent


class EvidenceTimedOut(ChunkEvent):
    """A gate has waited too long for its evidence."""

    name: ClassVar[str] = "evidence_timed_out"
    missing: list[str]
    waited_sec: float


class LauncherKilled(Event):
    """A training launcher that should not have been alive was ended."""

    name: ClassVar[str] = "launcher_killed"
    pid: int
    command_line: str
    why: str
    started_at: Annotated[float, Field(allow_inf_nan=False)]
    """Unix seconds; tells a reused pid apart."""

    def id_parts(self) -> tuple[object, ...]:
        """Process."""
        return (self.pid, int(self.started_at))


class AlertRaised(Event):
    """A channel has been silent for longer than its limit, or a service reports trouble."""

    name: ClassVar[str] = "alert_raised"
    channel: str
    """progress, history, checkpoint, visualization, gpu, ...; or checkpoints_empty, checkpoints_stale,
    dead_letters_<service>.
    """
    silence_sec: float
    """0, as the limit, where it is not silence that is reported."""
    limit_sec: float
    stage: Stage | None = None
    attempt: int | None = None
    detail: str = ""
    ordinal: int = 1

    def id_parts(self) -> tuple[object, ...]:
        """Stage, attempt, channel, count."""
        return (self.stage, self.attempt, self.channel, self.ordinal)


class CommandTimedOut(Event):
    """Nothing came of a command and its service gives no sign of working on it."""

    name: ClassVar[str] = "command_timed_out"
    command: str
    """Id of the command."""
    service: Service
    waited_sec: float
    retry: int
    """The sending that failed, from 0."""

    def id_parts(self) -> tuple[object, ...]:
        """The command's sending."""
        return (self.service, self.command.replace("/", "."), self.retry)
