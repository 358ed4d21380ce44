"""Which updates of which attempts a stage's weights come from: `core.lineage`, one gate at a time.

A rollback costs as many steps as it takes back pieces, however long the run is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Cut(Generic[V]):
    """Updates of an attempt that do not count any more."""

    attempt: int
    start: int
    """Superseded from this update on."""
    share: float
    """How much of what was left of `value` went."""
    value: V


@dataclass(slots=True)
class _Piece(Generic[V]):
    attempt: int
    start: int
    end: int
    value: V
    left: float = 1.0
    """Share of the value that was not cut yet."""


class Branch(Generic[V]):
    """The pieces of a stage that count, oldest first; each carries a value of the fold's."""

    def __init__(self) -> None:
        self._pieces: list[_Piece[V]] = []

    @property
    def pieces(self) -> list[tuple[int, int, int]]:
        """Attempt, first update, end (excluded) of each."""
        return [(piece.attempt, piece.start, piece.end) for piece in self._pieces]

    def grow(self, attempt: int, start: int, end: int, value: V) -> list[Cut[V]]:
        """Add an attempt's updates; what was there beyond its start does not count any more."""
        cuts = self.cut(start)
        self._pieces.append(_Piece(attempt, start, end, value))
        return cuts

    def cut(self, step: int) -> list[Cut[V]]:
        """Roll back to a number of updates."""
        cuts = []
        while self._pieces and (self._pieces[-1].end > step or self._pieces[-1].start >= step):
            piece = self._pieces[-1]
            at, length = max(step, piece.start), piece.end - piece.start
            share = (piece.end - at) / length if length > 0 and at > piece.start else 1.0
            cuts.append(Cut(piece.attempt, at, share * piece.left, piece.value))
            if at > piece.start:
                piece.end, piece.left = at, piece.left * (1 - share)
                break
            self._pieces.pop()
        return cuts

    def owner(self, step: int) -> int | None:
        """The attempt whose update led to this many updates done."""
        for piece in reversed(self._pieces):
            if piece.start < step:
                return piece.attempt if step <= piece.end else None
        return None
