"""How a run and its stages begin."""

from __future__ import annotations

from typing import ClassVar

from shared.events.base import BundlePath, Event, Stage
from shared.events.plans import RunSpec


class SpecEvent(Event):
    """An event that brings along what the run is to do."""

    spec: RunSpec


class RunQueued(SpecEvent):
    """The run waits: the trainer works on another."""

    name: ClassVar[str] = "run_queued"
    behind: list[str]
    """Run ids before this one."""


class RunStarted(SpecEvent):
    """The run has the trainer."""

    name: ClassVar[str] = "run_started"


class StageStarted(Event):
    """A stage begins."""

    name: ClassVar[str] = "stage_started"
    stage: Stage
    start_step: int
    target_step: int
    resume_from: BundlePath | None
    ordinal: int = 1
    """Times the stage was begun in this run: a failed inference gate begins dynamics again."""

    def id_parts(self) -> tuple[object, ...]:
        """Stage and ordinal."""
        return (self.stage, self.ordinal)
