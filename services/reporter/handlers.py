"""What the reporter does with each message."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from services.reporter.core.lineage import JUDGED, judged, lineage
from services.reporter.core.story import Outcome, tell
from services.reporter.event_file import append_events, last_sequence
from services.reporter.exports import write_config, write_gate_export
from services.reporter.page.static_page import write_page
from services.reporter.reports import Written as Report
from services.reporter.reports import write_reports as write
from shared.bundle import Bundle
from shared.bus.journal import journal
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
    SpecEvent,
    Stage,
    WriteReports,
)
from shared.recent import Recent
from shared.service import MOST_RUNS, Handler, Runs

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Written:
    """The events that were put into a run's file at a time."""

    ids: frozenset[str]
    gates: Mapping[GateStage, str]
    """Stage -> id of the newest gate that this process put there."""


@dataclass(slots=True)
class Deps:
    """What the handlers need."""

    bus: Bus
    runs: Runs
    written: Recent[str, Written] = field(default_factory=lambda: Recent(MOST_RUNS))
    """Run -> what this process put into its file last; of one that is not there, the file is looked at."""
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    exporting: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One export at a time: of the gates of a run that wait, only the newest is exported."""


async def event(message: Event, deps: Deps) -> list[Message]:
    """Put it into the run's event file, with whatever is missing before it; write what hangs on it."""
    try:
        bundle = await deps.runs.bundle(message.run_id)
    except Retry:  # asked for, not yet begun: `run_started` or `run_queued` brings it along
        return []
    if not isinstance(message, SpecEvent) and not bundle.root.is_dir():
        log.warning("the bundle is gone; its event file is left alone", bundle=str(bundle.root))
        return []
    written = deps.written.get(message.run_id)
    if written is None or message.id not in written.ids:
        await _catch_up(message.run_id, bundle, deps)
    if isinstance(message, SpecEvent):
        write_config(bundle, message.run_id, message.spec)
    elif isinstance(message, GateDecided):
        await _export(message, bundle, deps)
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
    begun = any(isinstance(record.message, ChunkDone | InferenceDone) for record in records)
    gone = bundle.gone() if begun else None
    if gone is None:
        await _catch_up(message.run_id, bundle, deps)
        found = await asyncio.to_thread(lambda: list(write(bundle, story, outcome, message.kinds)))
    else:
        found = [Report(kind, None, gone) for kind in message.kinds]
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


def _holds(records: list[Recorded], answer: ReportWritten) -> bool:
    return any(record.message.id == answer.id for record in records)


async def _catch_up(run_id: str, bundle: Bundle, deps: Deps) -> None:
    async with deps.writing:
        missing = await deps.bus.events(run_id, after=last_sequence(bundle.events))
        if any(isinstance(each, RunFinished) for each in _messages(missing)):
            # first: who waits for the end in the file has all files then
            await _keep_page(run_id, bundle, deps)
        append_events(bundle.events, missing)
        if missing:
            before = deps.written.get(run_id)
            gates = dict(before.gates) if before is not None else {}
            gates |= {each.stage: each.id for each in _messages(missing) if isinstance(each, GateDecided)}
            deps.written.put(run_id, Written(frozenset(each.id for each in _messages(missing)), gates))


def _messages(records: Iterable[Recorded]) -> Iterator[Message]:
    return (record.message for record in records)


async def _export(gate: GateDecided, bundle: Bundle, deps: Deps) -> None:
    """The history as it counts at a gate; that of a later gate, which is on its way, says all it says."""
    async with deps.exporting:
        written = deps.written.get(gate.run_id)
        newest = written.gates.get(gate.stage, gate.id) if written is not None else gate.id
        if gate.stage == "inference" or newest != gate.id:
            return
        try:
            await asyncio.to_thread(_write_export, bundle, gate.run_id, gate.stage)
        except (OSError, WorldloopError) as error:  # a convenience: the rows themselves are where they were
            log.warning("no history export", problem=str(error))


def _write_export(bundle: Bundle, run_id: str, stage: Stage) -> None:
    # the file was caught up with a moment ago, and is nearer than the server
    told = _messages(journal(bundle.events, JUDGED))
    write_gate_export(bundle, run_id, stage, lineage(judged(told, stage)))


async def _keep_page(run_id: str, bundle: Bundle, deps: Deps) -> None:
    """The page of a run that has ended, as one file."""
    records = await deps.bus.events(run_id)
    try:
        await asyncio.to_thread(write_page, bundle, records)
    except (OSError, WorldloopError) as error:  # nothing waits for it, and `worldloop report` writes it again
        log.warning("no page as a file", problem=str(error))


HANDLERS: Mapping[type[Message], Handler[Any, Deps]] = {Event: event, WriteReports: write_reports}
