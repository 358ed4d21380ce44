"""Which updates of which attempts led to the weights a stage has now; the rest was superseded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def kept(attempts: Sequence[Attempt]) -> dict[int, str]:
    """Attempt -> the updates of it that count, in words; and by which attempt the others were superseded.

    Args:
        attempts: Those of one stage, in order.
    """
    found: dict[int, str] = {}
    counts = {piece.attempt: piece for piece in lineage(attempts)}
    for place, attempt in enumerate(attempts):
        done, gate = attempt.done, attempt.gate
        if done is None or gate is None:
            found[attempt.number] = "not judged"
            continue
        piece = counts.get(attempt.number)
        unwritten = done.history is None and gate.accepted_checkpoint is not None
        end = piece.end if piece is not None else done.end_step if unwritten else done.start_step
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


def _before(pieces: list[Piece], step: int) -> list[Piece]:
    return [replace(piece, end=min(piece.end, step)) for piece in pieces if piece.start < step]
