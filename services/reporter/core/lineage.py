"""Which updates of which attempts led to the weights a stage has now; the rest was superseded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.reporter.core.story import Attempt
from shared.events import ChunkDone


@dataclass(frozen=True, slots=True)
class Piece:
    """Updates `start` (included) to `end` (excluded) of one attempt."""

    attempt: int
    start: int
    end: int
    history: str
    """The attempt's rows, relative to the bundle."""


def lineage(attempts: Iterable[Attempt]) -> list[Piece]:
    """The pieces of a stage's history that count, in order of updates.

    Args:
        attempts: Those of one stage, in order; without a gate yet they do not count.
    """
    return [
        Piece(done.attempt, done.start_step, end, done.history)
        for done, end in _counting(attempts)
        if done.history is not None
    ]


def ends(attempts: Iterable[Attempt]) -> dict[int, int]:
    """Attempt -> where those of its updates end that count; one of which none counts is left out."""
    return {done.attempt: end for done, end in _counting(attempts)}


def kept(attempts: Sequence[Attempt]) -> dict[int, str]:
    """Attempt -> the updates of it that count, in words; and by which attempt the others were superseded.

    Args:
        attempts: Those of one stage, in order.
    """
    found: dict[int, str] = {}
    counts = ends(attempts)
    for place, attempt in enumerate(attempts):
        done, gate = attempt.done, attempt.gate
        if done is None or gate is None:
            found[attempt.number] = "not judged"
            continue
        end = counts.get(attempt.number, done.start_step)
        whole = f"{done.start_step} to {end}" if end > done.start_step else "none"
        later = next(
            (
                each.number
                for each in attempts[place + 1 :]
                if each.starts and each.starts[0].plan.start_step < done.end_step
            ),
            None,
        )
        if end >= done.end_step:
            found[attempt.number] = whole
        elif later is not None:
            found[attempt.number] = f"{whole}; superseded by attempt {later}"
        else:
            found[attempt.number] = f"{whole}; rolled back by its gate"
    return found


def _counting(attempts: Iterable[Attempt]) -> list[tuple[ChunkDone, int]]:
    """The chunks that count, each with where what counts of it ends."""
    found: list[tuple[ChunkDone, int]] = []
    for attempt in attempts:
        gate, done = attempt.gate, attempt.done
        if gate is None or done is None:
            continue
        found = [*_before(found, done.start_step), (done, done.end_step)]
        if gate.accepted_checkpoint is None:
            found = _before(found, gate.resume_step)
    return found


def _before(chunks: list[tuple[ChunkDone, int]], step: int) -> list[tuple[ChunkDone, int]]:
    return [(done, min(end, step)) for done, end in chunks if done.start_step < step]
