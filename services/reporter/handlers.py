"""What the reporter does with each message."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from services.reporter.core.lineage import lineage
from services.reporter.core.story import Outcome, tell
from services.reporter.event_file import append_events, last_sequence
from services.reporter.exports import write_config, write_gate_export
from services.reporter.page.static_page import write_page
from services.reporter.reports import Written
from services.reporter.reports import write_reports as write
from shared.bundle import Bundle
from shared.bus.protocol import Bus, Recorded
from shared.errors import Retry, WorldloopError
from shared.events import (
    ChunkDone,
    Event,
    GateDecided,
    GateStage,
    InferenceDone,
    Message,
    ReportWritten,
    RunFinished,
    RunQueued,
    RunStarted,
    WriteReports,
)
from shared.service import Handler, Runs

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class Deps:
    """What the handlers need."""

    bus: Bus
    runs: Runs
    written: dict[str, set[str]] = field(default_factory=dict)
    """Run -> ids of the events this process put into its file last."""
    gates: dict[tuple[str, GateStage], str] = field(default_factory=dict)
    """Run and stage -> id of the newest gate among them."""
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


async def event(message: Event, deps: Deps) -> list[Message]:
    """Put it into the run's event file, with whatever is missing before it; write what hangs on it."""
    try:
        bundle = await deps.runs.bundle(message.run_id)
    except Retry:  # asked for, not yet begun: `run_started` or `run_queued` brings it along
        return []
    begins = isinstance(message, RunStarted | RunQueued)
    if not begins and not bundle.root.is_dir():
        log.warning("the bundle is gone; its event file is left alone", bundle=str(bundle.root))
        return []
    if message.id not in deps.written.get(message.run_id, ()):
        await _catch_up(message.run_id, bundle, deps)
    if isinstance(message, RunStarted | RunQueued):
        write_config(bundle, message.run_id, message.spec)
    elif isinstance(message, GateDecided):
        await _export(message, bundle, deps)
    elif isinstance(message, RunFinished):
        await _keep_page(message, bundle, deps)
    return []


async def write_reports(message: WriteReports, deps: Deps) -> list[Message]:
    """Write the reports of a run's outcome; what was answered before, by a reporter that died, is not again.

    It has no time limit of its own: heartbeats say that it is worked on, git and W&B have theirs.
    """
    bundle = await deps.runs.bundle(message.run_id)
    records = await deps.bus.events(message.run_id)
    story = tell(records)
    if story is None:
        raise Retry(f"the events of run {message.run_id} have no run_started yet")
    outcome = Outcome(message.outcome, message.reason, message.degraded)
    if (gone := _gone(bundle, records)) is None:
        await _catch_up(message.run_id, bundle, deps)
        found = await asyncio.to_thread(lambda: list(write(bundle, story, outcome, message.kinds)))
    else:
        found = [Written(kind, None, gone) for kind in message.kinds]
    answers = [
        ReportWritten(
            run_id=message.run_id,
            report=each.kind,
            path=each.path,
            ok=each.path is not None,
            error=each.error,
            ordinal=message.ordinal,
        )
        for each in found
    ]
    return [answer for answer in answers if not _holds(records, answer)]


def _gone(bundle: Bundle, records: list[Recorded]) -> str | None:
    """Why nothing is written where the bundle should be; none if it is there, or is yet to be made."""
    worked = any(isinstance(record.message, ChunkDone | InferenceDone) for record in records)
    return f"the run's bundle is not at {bundle.root}" if worked and not bundle.root.is_dir() else None


def _holds(records: list[Recorded], answer: ReportWritten) -> bool:
    return any(record.message.id == answer.id for record in records)


async def _catch_up(run_id: str, bundle: Bundle, deps: Deps) -> None:
    async with deps.writing:
        missing = await deps.bus.events(run_id, after=last_sequence(bundle.events))
        append_events(bundle.events, missing)
        if missing:
            deps.written[run_id] = {record.message.id for record in missing}
        gates = (record.message for record in missing if isinstance(record.message, GateDecided))
        deps.gates.update({(run_id, gate.stage): gate.id for gate in gates})


async def _export(gate: GateDecided, bundle: Bundle, deps: Deps) -> None:
    """The history as it counts at a gate; that of a later gate, which is on its way, says all it says."""
    if gate.stage == "inference" or deps.gates.get((gate.run_id, gate.stage), gate.id) != gate.id:
        return
    story = tell(await deps.bus.events(gate.run_id))
    if story is None:
        return
    pieces = lineage(story.of(gate.stage))
    try:
        await asyncio.to_thread(write_gate_export, bundle, gate.run_id, gate.stage, pieces)
    except (
        OSError,
        WorldloopError,
    ) as error:  # an export is a convenience: the rows themselves are where they were
        log.warning("no history export", problem=str(error))


async def _keep_page(end: RunFinished, bundle: Bundle, deps: Deps) -> None:
    """The page as one file; of the events up to this end, so that it is the same when the end comes again."""
    records = await deps.bus.events(end.run_id)
    ends = [place for place, record in enumerate(records) if record.message.id == end.id]
    try:
        await asyncio.to_thread(write_page, bundle, records[: ends[0] + 1] if ends else records)
    except (OSError, WorldloopError) as error:  # nothing waits for it, and `worldloop report` writes it again
        log.warning("no page as a file", problem=str(error))


HANDLERS: Mapping[type[Message], Handler[Any, Deps]] = {Event: event, WriteReports: write_reports}
