"""A run's page, folded from its events and telemetry, one message at a time. Pure: values in, values out.

Each message touches a few rows, and `patch` hands out those alone: what a message costs does not grow with
the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from services.reporter.core.page.course import Course
from services.reporter.core.page.goodput import Times
from services.reporter.core.page.inference import judged, tested
from services.reporter.core.page.lineage_rows import LineageRows
from services.reporter.core.page.model import (
    ROWS,
    Inference,
    Note,
    Page,
    Part,
    ReportRow,
    RunRow,
)
from services.reporter.core.page.notes import note
from services.reporter.core.page.stages import Stages
from services.reporter.core.page.surroundings import Gpus, Services
from services.reporter.core.page.table import Table
from shared.bus.protocol import Backlog, Recorded
from shared.events import (
    ArtifactEvidence,
    ChunkDone,
    ChunkStarted,
    Event,
    GateDecided,
    GpuEvidence,
    GpuSample,
    Heartbeat,
    InferenceDone,
    OperatorRequested,
    ReportWritten,
    RunFinished,
    RunResumed,
    RunSpec,
    RunStarted,
    SpecEvent,
    Stage,
    TrainProgress,
)

GOODPUT_SEC = 5.0
"""Between two patches of the goodput while nothing happens."""


class PageFold:
    """Everything the page shows of one run."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.spec: RunSpec | None = None
        self.sequence = 0
        """Of the newest event."""
        self.last: float | None = None
        """Unix time of the newest event."""
        self._first: float | None = None
        self._began: float | None = None
        self._finished: float | None = None
        self._seen: set[str] = set()
        self._course = Course()
        self._stages = Stages()
        self._lineage = LineageRows()
        self._services = Services(run_id)
        self._gpus = Gpus()
        self._times = Times()
        self._notes: Table[Note] = Table()
        self._reports: Table[ReportRow] = Table()
        self._inference: Inference | None = None
        self._chunk: ChunkDone | None = None
        self._told: dict[str, Any] = {}
        self._told_goodput = 0.0
        self._moved = True
        """Something that changes the goodput was folded since the last patch."""
        self._tables: dict[str, Table[Any]] = {
            "stages": self._stages.table,
            "gates": self._lineage.gates,
            "attempts": self._lineage.attempts,
            "sheets": self._lineage.sheets,
            "notes": self._notes,
            "gpus": self._gpus.table,
            "services": self._services.table,
            "reports": self._reports,
        }
        assert tuple(self._tables) == ROWS

    # --- what comes in ------------------------------------------------------------------------------------

    def take(self, recorded: Recorded) -> None:
        """Fold a message in; one of another run, or an event that was seen, changes nothing.

        Heartbeats count whatever run they name: the services are everybody's.
        """
        message, time = recorded.message, recorded.time.timestamp()
        if isinstance(message, Heartbeat) and message.node_rank == 0:  # of other hosts, the monitor alerts
            self._services.beat(message, time)
        if message.run_id != self.run_id:
            return
        if isinstance(message, TrainProgress):
            self._stages.progress(message, time)
            self._times.heard(message.stage, message.attempt, time)
        elif isinstance(message, GpuSample):
            self._gpus.sample(message, time)
        elif isinstance(message, Event) and message.id not in self._seen:
            self._seen.add(message.id)
            self.sequence, self.last = max(self.sequence, recorded.sequence), time
            self._first = time if self._first is None else self._first
            self._moved = True
            self._event(message, recorded, time)

    def backlog(self, backlogs: Sequence[Backlog] | None) -> None:
        """What the services have before them; none if the bus does not say."""
        self._services.backlog(backlogs)

    def sheets(self, stage: Stage, found: Iterable[tuple[int, str]]) -> None:
        """Sheets that lie where the running attempt writes them: updates done, and path in the bundle."""
        for step, path in found:
            self._lineage.found(stage, step, path)

    # --- what goes out ------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Whether the run is over, until it is resumed."""
        return self._course.ended

    @property
    def run(self) -> RunRow:
        """The run as the list of runs has it."""
        return RunRow(
            run_id=self.run_id,
            run_name=self.spec.run_name if self.spec is not None else self.run_id,
            status=self._course.status,
            degraded=self._course.degraded,
            stage=self._stages.current,
            began=self._began or self._first or 0.0,
            ended=self._finished if self.ended else None,
        )

    def superseded(self, stage: Stage) -> dict[int, int | None]:
        """The stage's attempts -> from which update on each was rolled back; none where it was not."""
        return self._lineage.superseded(stage)

    def page(self, now: float, *, live: bool = False) -> Page:
        """The whole document.

        Args:
            now: Unix time.
            live: Whether the page can send the operator's wishes to anyone.
        """
        rows: dict[str, Any] = {name: table.rows for name, table in self._tables.items()}
        goodput = self._times.goodput(now)
        return Page(now=now, live=live, goodput=goodput, **self._heads(), **rows)

    def patch(self, now: float) -> dict[str, Any]:
        """What changed since the last patch, as JSON: top-level fields, rows by id; always `now`."""
        found: dict[str, Any] = {"now": now}
        heads = self._heads()
        found |= {name: _plain(value) for name, value in heads.items() if self._told.get(name) != value}
        self._told = heads
        if self._moved or (not self.ended and now - self._told_goodput >= GOODPUT_SEC):
            found["goodput"] = _plain(self._times.goodput(now))
            self._told_goodput, self._moved = now, False
        for name, table in self._tables.items():
            if rows := table.take_changes():
                found[name] = [_plain(row) for row in rows]
        return found

    def forget_changes(self) -> None:
        """Begin the next patch here: whoever gets it has the whole page as it is now."""
        self._told, self._moved = self._heads(), True
        for table in self._tables.values():
            table.take_changes()

    def _heads(self) -> dict[str, Any]:
        """The top-level fields but rows, goodput, and what only the server knows."""
        spec, course = self.spec, self._course
        knobs = self._stages.knobs
        return {
            "run": self.run,
            "bundle": spec.bundle if spec is not None else "",
            "profile": spec.profile if spec is not None else "",
            "dataset": _dataset(spec),
            "mode": course.mode,
            "phase": course.phase,
            "reason": course.reason,
            "requested": list(course.wishes.values()),
            "actions": course.actions(retune=knobs is not None) if spec is not None else [],
            "knobs": knobs or {},
            "eta": self._stages.eta(),
            "inference": self._inference,
        }

    # --- events -------------------------------------------------------------------------------------------

    def _event(self, event: Event, recorded: Recorded, time: float) -> None:
        if isinstance(event, SpecEvent):
            self._begin(event.spec)
        elif isinstance(event, OperatorRequested) and event.request == "start_run":
            with contextlib.suppress(ValidationError):  # one that cannot be used is shown as asked for
                self._begin(RunSpec.recorded(event.arguments.get("spec")))
        if isinstance(event, RunStarted) and self._began is None:
            self._began = time
            self._stages.start_test()
        self._stages.take(event)
        spec = self.spec
        inference = spec is not None and spec.inference
        self._course.take(event, inference=inference, trained=self._stages.trained)
        self._times.take(event, time)
        if (line := note(recorded)) is not None:
            self._notes.put(line)
        self._rows(event, time)

    def _begin(self, spec: RunSpec) -> None:
        if self.spec is None:
            self.spec = spec
            self._stages.begin(spec)

    def _rows(self, event: Event, time: float) -> None:
        match event:
            case ChunkStarted():
                self._lineage.start(event, time)
            case ChunkDone():
                self._lineage.done(event, time)
                self._chunk = event
            case ArtifactEvidence():
                self._lineage.picture(event)
            case GpuEvidence():
                ours = self._chunk is not None and self._chunk.attempt == event.attempt
                seconds = self._chunk.seconds if ours and self._chunk is not None else None
                self._gpus.evidence(event, seconds, time)
            case GateDecided():
                self._lineage.decide(event, time)
                if event.stage == "inference" and self._inference is not None:
                    self._inference = judged(self._inference, event)
            case InferenceDone():
                self._inference = tested(event, time)
            case ReportWritten(report=kind, path=path, error=error):
                self._reports.put(ReportRow(id=kind, kind=kind, path=path, error=error, time=time))
            case RunFinished():
                self._finished = time
            case RunResumed():
                self._finished = None
            case _:
                pass


def fold_all(run_id: str, records: Iterable[Recorded]) -> PageFold:
    """The fold after all these messages."""
    fold = PageFold(run_id)
    for recorded in records:
        fold.take(recorded)
    return fold


def _dataset(spec: RunSpec | None) -> str:
    training = spec.configuration.get("training") if spec is not None else None
    found = training.get("dataset") if isinstance(training, dict) else None
    return str(found) if found is not None else ""


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, Part) else value
