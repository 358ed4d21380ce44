"""Which updates of which attempts led to the weights a stage has now; the rest was superseded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from services.reporter.core.story import Attempt


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
    pieces: list[Piece] = []
    for attempt in attempts:
        gate, done = attempt.gate, attempt.done
        if gate is None or done is None:
            continue
        pieces = _before(pieces, done.start_step)
        if done.history is not None:
            pieces.append(Piece(done.attempt, done.start_step, done.end_step, done.history))
        if gate.accepted_checkpoint is None:
            pieces = _before(pieces, gate.resume_step)
    return pieces


def _before(pieces: list[Piece], step: int) -> list[Piece]:
    return [replace(piece, end=min(piece.end, step)) for piece in pieces if piece.start < step]
