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
    done: set[Key] = field(default_factory=set)
    over: set[str] = field(default_factory=set)
    """Runs that are finished."""
    stops: set[Key] = field(default_factory=set)
    """Started chunks that are to end: the command that said so may have been acked by a trainer that died."""

    def answered(self, key: Key) -> bool:
        """Whether a command for this chunk comes too late: it is done, or a later attempt was begun."""
        later = any(other[:2] == key[:2] and other[2] > key[2] for other in self.begun)
        return later or key in self.done

    def unfinished(self) -> list[Begun]:
        """The newest started chunk without `chunk_done` of each living run, oldest first."""
        open_chunks = {
            key: each for key, each in self.begun.items() if key not in self.done and key[0] not in self.over
        }
        newest = {each.run_id: each for each in sorted(open_chunks.values(), key=lambda each: each.since)}
        return list(newest.values())


def fold(events: Iterable[Recorded]) -> Ledger:
    """Read the ledger from the log."""
    ledger, stopping = Ledger(), set[str]()
    for record in events:
        match record.message:
            case ChunkStarted(run_id=run_id, stage=stage, attempt=attempt) as started:
                first = ledger.begun.get((run_id, stage, attempt))
                ledger.begun[run_id, stage, attempt] = Begun(
                    run_id,
                    started.plan,
                    max(started.launch, first.launches if first else 0),
                    first.since if first else record.time.timestamp(),
                    started.launcher_pid,
                )
            case ChunkDone(run_id=run_id, stage=stage, attempt=attempt):
                ledger.done.add((run_id, stage, attempt))
            case RunFinished(run_id=run_id):
                ledger.over.add(run_id)
            case RunStarted(run_id=run_id) | RunResumed(run_id=run_id):
                ledger.over.discard(run_id)
                stopping.discard(run_id)
            case OperatorRequested(run_id=run_id, request="stop_run"):
                stopping.add(run_id)
            case _:
                pass
    ledger.stops = {key for key in ledger.begun if key[0] in stopping and key not in ledger.done}
    return ledger
