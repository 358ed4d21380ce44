"""A figure, and its PNG without anything that changes from day to day."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from shared.bundle import write_atomic

COUNTS, SUPERSEDED, OTHER = "#1f5fa8", "#b8b8b8", "#b0561f"


def figure(rows: int = 1) -> tuple[Any, list[Any]]:
    """A figure and its axes, one below the other over the same x."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(9, 1.2 + 2.8 * rows), layout="constrained")
    axes = made.subplots(rows, 1, sharex=True, squeeze=False)
    for (each,) in axes:
        each.grid(visible=True, alpha=0.3)
    return made, [each for (each,) in axes]


def save(path: Path, made: Any) -> None:
    """Write a figure as PNG.

    Raises:
        OSError: The disk refused.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(made)
    made.draw_without_rendering()
    made.set_layout_engine("none")
    for axes in made.axes:  # the layout's solver orders by address: its last bits differ from call to call
        axes.set_position([round(bound, 4) for bound in axes.get_position().bounds])
    stream = io.BytesIO()
    canvas.print_png(stream, metadata={"Software": None})
    write_atomic(path, stream.getvalue())
