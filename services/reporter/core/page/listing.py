"""The list of runs, from the few events that say when one began, where it is and how it ended. Pure."""

from __future__ import annotations

from typing import Any

from services.reporter.core.page.model import RunRow
from shared.bus.protocol import Recorded
from shared.events import (
    Event,
    InferenceDone,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    StageStarted,
)

TELLING: tuple[type[Event], ...] = (
    RunQueued,
    RunStarted,
    StageStarted,
    InferenceDone,
    RunPaused,
    RunResumed,
    RunFinished,
)
"""Events that change a row."""
MOST_ROWS = 1000
"""Runs that are listed: all that are not over, and the newest of the others."""


class Listing:
    """The runs there are; of thousands that are over, the oldest are left out."""

    def __init__(self) -> None:
        self._rows: dict[str, RunRow] = {}
        self.changed = False
        """Set when a row changes; whoever tells it on takes it back."""

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._rows

    @property
    def rows(self) -> list[RunRow]:
        """Newest first."""
        return sorted(self._rows.values(), key=lambda row: (row.began, row.run_id), reverse=True)

    def take(self, recorded: Recorded) -> None:
        """Fold an event in; one that comes again changes nothing."""
        event, time = recorded.message, recorded.time.timestamp()
        match event:
            case RunQueued(spec=spec) if event.run_id not in self._rows:
                self._add(event.run_id, spec.run_name, "queued", time)
            case RunStarted(spec=spec) if event.run_id not in self._rows:
                self._add(event.run_id, spec.run_name, "running", time)
            case RunStarted() if self._rows[event.run_id].status == "queued":
                self._put(event.run_id, status="running", began=time)
            case RunResumed() if event.run_id not in self._rows:  # one that was left out goes on, unnamed
                self._add(event.run_id, event.run_id, "running", time)
            case _ if event.run_id not in self._rows:
                pass  # its beginning cannot be read
            case RunResumed():
                self._put(event.run_id, status="running", ended=None)
            case RunPaused():
                self._put(event.run_id, status="paused")
            case StageStarted(stage=stage):
                self._put(event.run_id, stage=stage)
            case InferenceDone():
                self._put(event.run_id, stage="inference")
            case RunFinished(status=status, degraded=degraded):
                self._put(event.run_id, status=status, degraded=degraded, ended=time)
            case _:
                pass

    def _add(self, run_id: str, run_name: str, status: Any, time: float) -> None:
        if len(self._rows) >= MOST_ROWS:
            over = (row for row in self._rows.values() if row.ended is not None)
            oldest = min(over, key=lambda row: row.began, default=None)
            if oldest is not None:
                del self._rows[oldest.run_id]
        self._rows[run_id] = RunRow(
            run_id=run_id,
            run_name=run_name,
            status=status,
            degraded=False,
            stage=None,
            began=time,
            ended=None,
        )
        self.changed = True

    def _put(self, run_id: str, **fields: Any) -> None:
        self._rows[run_id] = self._rows[run_id].model_copy(update=fields)
        self.changed = True
