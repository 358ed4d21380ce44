"""What the event log says about chunks: which are done, and which one was left unfinished."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from shared.bus.protocol import Recorded
from shared.events import (
    ChunkDone,
    ChunkPlan,
    ChunkStarted,
    OperatorRequested,
    RunFinished,
    RunResumed,
    RunStarted,
)

Key = tuple[str, str, int]
"""Run, stage, attempt: names a chunk."""


@dataclass(slots=True)
class Begun:
    """A chunk that was started."""

    run_id: str
    plan: ChunkPlan
    launches: int
    since: float
    """Unix time of its first `chunk_started`."""
    launcher_pid: int


@dataclass(slots=True)
class Ledger:
    """The trainer's own events, folded. It is their only writer, so it keeps this up to date itself."""

    begun: dict[Key, Begun] = field(default_factory=dict)
    """Of each stage of a run, the newest."""
    done: set[Key] = field(default_factory=set)
    over: set[str] = field(default_factory=set)
    """Runs that are finished."""
    stopping: set[str] = field(default_factory=set)
    """Runs that the operator wants to end."""
    stops: set[Key] = field(default_factory=set)
    """Started chunks that are to end: the command that said so may have been acked by a trainer that died."""
    read: int = 0
    """Sequence of the newest event that was noted."""

    def answered(self, key: Key) -> bool:
        """Whether a command for this chunk comes too late: it is done, or a later attempt was begun."""
        later = any(other[:2] == key[:2] and other[2] > key[2] for other in self.begun)
        return later or key in self.done

    def knows(self, run_id: str) -> bool:
        """Whether a chunk of the run was begun or done."""
        return any(key[0] == run_id for key in (*self.begun, *self.done))

    def begin(self, begun: Begun) -> None:
        """A chunk was started, or launched again; those of its stage before it are history."""
        stage, attempt = (begun.run_id, begun.plan.stage), begun.plan.attempt
        if any(key[:2] == stage and key[2] > attempt for key in self.begun):
            return
        for key in [key for key in self.begun if key[:2] == stage]:
            del self.begun[key]
        self.begun[*stage, attempt] = begun

    def take(self, record: Recorded) -> None:
        """Note an event of the log; after the last of them, `complete`."""
        self.read = record.sequence
        match record.message:
            case ChunkStarted(run_id=run_id, stage=stage, attempt=attempt) as started:
                first = self.begun.get((run_id, stage, attempt))
                launches = max(started.launch, first.launches if first else 0)
                since = first.since if first else record.time.timestamp()
                self.begin(Begun(run_id, started.plan, launches, since, started.launcher_pid))
            case ChunkDone(run_id=run_id, stage=stage, attempt=attempt):
                self.done.add((run_id, stage, attempt))
            case RunFinished(run_id=run_id):
                self.over.add(run_id)
            case RunStarted(run_id=run_id) | RunResumed(run_id=run_id):
                self.over.discard(run_id)
                self.stopping.discard(run_id)
            case OperatorRequested(run_id=run_id, request="stop_run"):
                self.stopping.add(run_id)
            case _:
                pass

    def complete(self) -> Ledger:
        """This ledger, with the stops that follow from all that was noted."""
        self.stops = {key for key in self.begun if key[0] in self.stopping and key not in self.done}
        return self

    def unfinished(self) -> list[Begun]:
        """The newest started chunk without `chunk_done` of each living run, oldest first."""
        open_chunks = {
            key: each for key, each in self.begun.items() if key not in self.done and key[0] not in self.over
        }
        newest = {each.run_id: each for each in sorted(open_chunks.values(), key=lambda each: each.since)}
        return list(newest.values())


def fold(events: Iterable[Recorded]) -> Ledger:
    """Read the ledger from the log."""
    ledger = Ledger()
    for record in events:
        ledger.take(record)
    return ledger.complete()
