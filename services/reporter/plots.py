"""The loss of a stage over all its attempts: what counts in colour, the superseded in grey, gates marked."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.reporter.core.lineage import Piece
from services.reporter.core.story import Attempt
from services.reporter.exports import read_rows
from shared.bundle import Bundle, write_atomic
from shared.errors import BundleError
from shared.events import Decision, Stage
from shared.history_export import number

COUNTS, SUPERSEDED = "#1f5fa8", "#b8b8b8"
MARKS: dict[Decision, str] = {
    "continue": "#2a8f4f",
    "retune": "#d98c00",
    "restart_stage": "#c03028",
    "stop": "#c03028",
}


@dataclass(frozen=True, slots=True)
class Curve:
    """Losses by update."""

    steps: list[float]
    losses: list[float]
    counts: bool
    """Whether it led to the weights the stage has now."""


def draw_losses(
    path: Path, bundle: Bundle, stage: Stage, attempts: Sequence[Attempt], pieces: Sequence[Piece]
) -> None:
    """Draw a stage's plot as PNG.

    Raises:
        BundleError: There is no row to draw.
        OSError: A history cannot be read, or the disk refused.
    """
    curves = _curves(bundle, attempts, pieces)
    if not curves:
        raise BundleError(f"the histories of {stage} hold no loss")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    for curve in curves:
        axes.plot(curve.steps, curve.losses, color=COUNTS if curve.counts else SUPERSEDED, linewidth=1)
    _mark_gates(axes, attempts)
    losses = [loss for curve in curves for loss in curve.losses]
    if min(losses) > 0 and max(losses) > 10 * min(losses):
        axes.set_yscale("log")
    axes.set(xlabel="updates done", ylabel="train/loss", title=stage)
    axes.grid(visible=True, alpha=0.3)
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    write_atomic(path, stream.getvalue())


def _curves(bundle: Bundle, attempts: Sequence[Attempt], pieces: Sequence[Piece]) -> list[Curve]:
    kept = {piece.attempt: piece for piece in pieces}
    curves = []
    for done in [attempt.done for attempt in attempts if attempt.done is not None]:
        if done.history is None:
            continue
        piece = kept.get(done.attempt)
        edge = piece.end if piece is not None else done.start_step
        for start, end, counts in ((edge, done.end_step, False), (done.start_step, edge, True)):
            points = [
                (float(row["_step"]), loss)
                for row in read_rows(bundle.resolve(done.history), start, end)
                if (loss := number(row, "train/loss")) is not None
            ]
            if points:
                curves.append(Curve([p[0] for p in points], [p[1] for p in points], counts))
    return sorted(curves, key=lambda curve: curve.counts)


def _mark_gates(axes: Any, attempts: Sequence[Attempt]) -> None:
    named = set()
    for gate in [attempt.gate for attempt in attempts if attempt.gate is not None]:
        label = gate.decision if gate.decision not in named else None
        named.add(gate.decision)
        axes.axvline(gate.gate_step, color=MARKS[gate.decision], linestyle=":", linewidth=1.2, label=label)
    if named:
        axes.legend(title="gates", fontsize="small")
