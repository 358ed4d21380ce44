"""Which updates of which attempts led to the weights a stage has now; the rest was superseded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from services.reporter.core.story import Attempt
from shared.events import ChunkDone, GateDecided, Message, Stage

JUDGED = (ChunkDone.name, GateDecided.name)
"""Events that say which updates count."""


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
        Piece(each.attempt, each.start, each.end, each.history)
        for each in _counting(attempts)
        if each.history is not None
    ]


def ends(attempts: Iterable[Attempt]) -> dict[int, int]:
    """Attempt -> where those of its updates end that count; one of which none counts is left out."""
    return {each.attempt: each.end for each in _counting(attempts)}


def judged(messages: Iterable[Message], stage: Stage) -> Iterator[Attempt]:
    """A stage's attempts as their gates come, with what `lineage` asks for; none is kept.

    Args:
        messages: Of one run, in order; at least those of `JUDGED`.
        stage: The stage.
    """
    done: dict[int, ChunkDone] = {}
    for message in messages:
        if isinstance(message, ChunkDone) and message.stage == stage:
            done[message.attempt] = message
        elif isinstance(message, GateDecided) and message.stage == stage:
            yield Attempt(done=done.pop(message.attempt, None), gate=message)


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


@dataclass(slots=True)
class _Counting:
    """What counts of a chunk, so far."""

    attempt: int
    start: int
    end: int
    history: str | None


def _counting(attempts: Iterable[Attempt]) -> list[_Counting]:
    """The chunks that count, each as far as it does; none begins before the one before it ends."""
    found: list[_Counting] = []
    for attempt in attempts:
        gate, done = attempt.gate, attempt.done
        if gate is None or done is None:
            continue
        _cut(found, done.start_step)
        found.append(_Counting(done.attempt, done.start_step, done.end_step, done.history))
        if gate.accepted_checkpoint is None:
            _cut(found, gate.resume_step)
    return found


def _cut(chunks: list[_Counting], step: int) -> None:
    """Let nothing count from a step on."""
    while chunks and chunks[-1].start >= step:
        chunks.pop()
    if chunks:
        chunks[-1].end = min(chunks[-1].end, step)
