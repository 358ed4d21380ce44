"""A column of a stage's histories over all attempts: what counts now, and what was superseded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from services.reporter.core.lineage import ends
from services.reporter.core.story import Attempt
from services.reporter.exports import read_rows
from services.reporter.plots.canvas import COUNTS, SUPERSEDED
from shared.bundle import Bundle
from shared.errors import BundleError
from shared.events import ChunkDone, Decision
from shared.history_export import number
from shared.wandb_rows import STEP

MARKS: dict[Decision, tuple[str, Any]] = {
    "continue": ("#2a8f4f", ":"),
    "retune": ("#d98c00", "--"),
    "restart_stage": ("#c03028", "-."),
    "stop": ("#c03028", "-"),
}

MANY, THIN = 30, 0.25
"""Of more gates than this, those that went on are drawn so thin that the curve can be seen between them."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Values by update."""

    steps: list[float]
    values: list[float]
    counts: bool
    """Whether it led to the weights the stage has now."""


@dataclass(slots=True)
class Curves:
    """The curves of some columns."""

    of: dict[str, list[Curve]]
    """Column -> its curves; superseded ones first, so that what counts is drawn over them."""
    missing: list[str] = field(default_factory=list)
    """Why a history is not among them."""


def read_curves(bundle: Bundle, attempts: Sequence[Attempt], columns: Sequence[str]) -> Curves:
    """Read columns of a stage's histories; one that cannot be read is named and left out."""
    kept = ends(attempts)
    found = Curves({column: [] for column in columns})
    for done in [attempt.done for attempt in attempts if attempt.done is not None]:
        edge = kept.get(done.attempt, done.start_step)
        try:
            _read(bundle, done, edge, found)
        except (BundleError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            found.missing.append(f"{done.history}: {why}")
    for curves in found.of.values():
        curves.sort(key=lambda curve: curve.counts)
    return found


def _read(bundle: Bundle, done: ChunkDone, edge: int, into: Curves) -> None:
    if done.history is None:
        return
    points: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for row in read_rows(bundle.resolve(done.history), done.start_step, done.end_step):
        step = number(row, STEP)
        for column in into.of:
            value = number(row, column)
            if step is not None and value is not None:
                points.setdefault((column, step < edge), []).append((float(step), float(value)))
    for (column, counts), pairs in points.items():
        into.of[column].append(Curve([p[0] for p in pairs], [p[1] for p in pairs], counts))


def draw(axes: Any, curves: Sequence[Curve], label: str) -> None:
    """Draw the curves of a column."""
    named: set[bool] = set()
    for curve in curves:
        name = (label if curve.counts else "superseded") if curve.counts not in named else None
        named.add(curve.counts)
        colour = COUNTS if curve.counts else SUPERSEDED
        axes.plot(curve.steps, curve.values, color=colour, linewidth=1, label=name)


def mark_gates(axes: Any, attempts: Sequence[Attempt], *, legend: bool = True) -> None:
    """A line at each gate, by its decision; a rollback as an arrow back to where training went on."""
    named: set[Decision] = set()
    for gate in [attempt.gate for attempt in attempts if attempt.gate is not None]:
        colour, style = MARKS[gate.decision]
        label = f"gate: {gate.decision}" if gate.decision not in named else None
        named.add(gate.decision)
        width = THIN if gate.decision == "continue" and len(attempts) > MANY else 1.2
        axes.axvline(gate.gate_step, color=colour, linestyle=style, linewidth=width, label=label)
        if gate.decision in ("retune", "restart_stage") and gate.resume_step < gate.gate_step:
            arrow = {"arrowstyle": "->", "color": colour}
            ends = {"xy": (gate.resume_step, 0.97), "xytext": (gate.gate_step, 0.97)}
            axes.annotate("", **ends, xycoords=("data", "axes fraction"), arrowprops=arrow)
    if legend:
        axes.legend(fontsize="small", loc="best")
