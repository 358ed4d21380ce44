"""What a load run found, as a table and as one JSON object."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.load.probes import Watched

EVERY_SEC = 300.0
"""Between two columns of memory; of a short run, a quarter of it."""
FLAT = 0.05
"""Memory is flat when it grows by no more than this share in the second half of the time."""
NEVER = (
    "events_lost", "journal_lost", "journal_twice", "decided_twice", "undecided", "commanded_twice",
    "dead_letters", "waiting",
)  # fmt: skip
"""Counts that must be 0."""


@dataclass(frozen=True)
class Report:
    """The findings."""

    seconds: float
    """Of load."""
    watched: Sequence[Watched]
    latencies: Sequence[float]
    """Seconds from the last evidence of a gate to the next command."""
    rates: Mapping[str, float]
    """Readings sent, and messages that each outside subscriber heard, per second."""
    counts: Mapping[str, int]
    """See `audit`."""

    @property
    def good(self) -> bool:
        """Whether nothing was lost and nothing decided twice."""
        return bool(self.latencies) and not any(self.counts[name] for name in NEVER)

    def table(self) -> Iterator[str]:
        """Lines for people."""
        marks = told(self.seconds)
        minutes = "".join(f"{mark / 60:>7.3g}" for mark in marks)
        heads = f"{'peak':>7}{'MB/h':>8}{'flat':>6}{'cores':>7}{'ready s':>9}{'end s':>7}"
        yield f"{'MB after minutes':<16}{minutes}{heads}"
        for each in self.watched:
            found = each.figures()
            memory = "".join(f"{each.at(mark):>7.0f}" for mark in marks)
            ended = "killed" if each.ended_s is None else f"{each.ended_s:.1f}"
            flat = "yes" if _flat(found, self.seconds) else "no"
            yield (
                f"{each.name:<16}{memory}{each.peak_mb:>7.0f}{found['growth_mb_h']:>8.1f}{flat:>6}"
                f"{found['cores']:>7.2f}{each.ready_s:>9.1f}{ended:>7}"
            )
        for name, value in {**self.decisions(), **self.rates, **self.counts}.items():
            yield f"{name:<20}{value:>12,.1f}" if isinstance(value, float) else f"{name:<20}{value:>12,}"

    def document(self) -> dict[str, Any]:
        """Everything, times in milliseconds; `services` as `Watched.figures`, `mb` at the table's minutes."""
        marks = told(self.seconds)
        services = {
            each.name: each.figures()
            | {
                "mb": {f"{mark / 60:g}": round(each.at(mark), 1) for mark in marks},
                "flat": _flat(each.figures(), self.seconds),
            }
            for each in self.watched
        }
        told_too = {name: round(value, 1) for name, value in {**self.decisions(), **self.rates}.items()}
        return {
            "minutes": self.seconds / 60, "services": services, **told_too, **self.counts, "good": self.good
        }  # fmt: skip

    def decisions(self) -> dict[str, float]:
        """How many gates, and how long they took."""
        if not self.latencies:
            return {"gates": 0}
        ms = [1e3 * each for each in self.latencies]
        return {
            "gates": len(ms),
            "decision_p50_ms": statistics.median(ms),
            "decision_p99_ms": float(np.quantile(ms, 0.99)),
            "decision_max_ms": max(ms),
        }


def told(seconds: float) -> list[float]:
    """When memory is told, in seconds from the beginning; the end is the last."""
    every = EVERY_SEC if seconds >= 4 * EVERY_SEC else seconds / 4
    return [number * every for number in range(int(seconds / every + 1e-9) + 1)]


def _flat(found: Mapping[str, Any], seconds: float) -> bool:
    return bool(found["growth_mb_h"] * seconds / 2 / 3600 <= FLAT * found["end_mb"])
