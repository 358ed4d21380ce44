"""Which rows of which attempt led to a stage's weights, and which were superseded by a rollback."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from services.reporter.core.lineage import ends
from services.reporter.core.story import Attempt
from shared.events import ChunkDone


@dataclass(frozen=True, slots=True)
class Span:
    """The updates of one attempt that ended: those before `edge` count, later ones do not."""

    done: ChunkDone
    edge: int
    """One more than the last update that counts; the attempt's start where none does."""

    def counts(self, step: float) -> bool:
        """Whether this attempt's row of a step is one that counts."""
        return self.done.start_step <= step < self.edge


def spans(attempts: Iterable[Attempt]) -> list[Span]:
    """The span of each attempt of a stage that has ended, in order.

    Args:
        attempts: Those of one stage, in order.
    """
    told = list(attempts)
    edges = ends(told)
    return [
        Span(attempt.done, edges.get(attempt.done.attempt, attempt.done.start_step))
        for attempt in told
        if attempt.done is not None
    ]
