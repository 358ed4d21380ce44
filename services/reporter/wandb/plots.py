"""Plots of a stage's metrics, and of one metric over several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.reporter.core.wandb.figures import figures, outline, rolling_mean, thinned, window
from services.reporter.core.wandb.history import StageHistory
from services.reporter.core.wandb.table import (
    ACTION_ENTROPY,
    CODEBOOK_USAGE,
    LOSS,
    METRICS,
    RATE,
    UNIQUE_ACTIONS,
    Column,
    Table,
)
from services.reporter.plots.canvas import save

POINTS = 1500
"""Stretches a curve is drawn with at most; wider than the picture has pixels for."""
RAW, MEAN, VOID, TENTHS = "#9dbfe3", "#1f5fa8", "#bdbdbd", "#202020"
COLOURS = ("#1f5fa8", "#c05a10", "#2a8f4f", "#8a4fae", "#7a6a20", "#c03060", "#3aa0a0", "#555555")
DASHES = ("-", "--", "-.", ":")
LABELS = {
    LOSS: "train/loss",
    RATE: "learning rate",
    CODEBOOK_USAGE: "codebook usage",
    ACTION_ENTROPY: "action entropy",
    UNIQUE_ACTIONS: "unique actions",
}


def draw_stage(path: Path, history: StageHistory) -> None:
    """Draw a stage's metrics over its updates, one above the other, as PNG; nothing if there is no value.

    Raises:
        OSError: The disk refused.
    """
    tables = (history.counted, *history.superseded)
    names = [name for name in METRICS if any(len(table.known(name)[0]) for table in tables)]
    if not names:
        return
    heights = [2.6 if name == LOSS else 1.0 for name in names]
    figure = _figure((9, 1.0 + 1.4 * sum(heights)))
    grid = figure.subplots(len(names), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, name in zip(grid, names, strict=True):
        _metric(axes, name, history)
    grid[0].set_title(history.stage)
    grid[-1].set_xlabel("updates done")
    save(path, figure)


def draw_comparison(path: Path, title: str, runs: Mapping[str, Table]) -> None:
    """Draw the rolling mean of the loss of several runs over their updates, as PNG; nothing without a loss.

    Raises:
        OSError: The disk refused.
    """
    figure = _figure((9, 4.6))
    axes = figure.add_subplot()
    drawn = list[Column]()
    for place, (name, table) in enumerate(runs.items()):
        steps, losses = table.known(LOSS)
        if not len(losses):
            continue
        means = rolling_mean(losses, window(len(losses)))
        style = {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[place % len(DASHES)]}
        axes.plot(*thinned(steps, means, POINTS), linewidth=1.5, label=name, **style)
        drawn.append(means)
    if not drawn:
        return
    _scale(axes, drawn)
    axes.set(xlabel="updates done", ylabel="train/loss, rolling mean", title=title)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    save(path, figure)


def _metric(axes: Any, name: str, history: StageHistory) -> None:
    """One panel: what was superseded in grey, each row pale, the rolling mean over it."""
    drawn = list[Column]()
    for void in history.superseded:
        steps, values = void.known(name)
        if len(values):
            _outline(axes, steps, values, VOID, label=None if drawn else "superseded")
            drawn.append(values)
    steps, values = history.counted.known(name)
    if len(values):
        size = window(len(values))
        _outline(axes, steps, values, RAW, label="each row")
        means = values if name == RATE else rolling_mean(values, size)
        axes.plot(*thinned(steps, means, POINTS), color=MEAN, linewidth=1.6, label=f"mean of {size} rows")
        drawn.append(values)
    if name == LOSS and (found := figures(history.counted, name)) is not None:
        tenth = max(1, len(steps) // 10)
        style = {"color": TENTHS, "linewidth": 2.2, "linestyle": (0, (2, 1))}
        axes.plot(
            (steps[0], steps[tenth - 1]),
            (found.first10, found.first10),
            **style,
            label="mean of the first, last 10 %",
        )
        axes.plot((steps[-tenth], steps[-1]), (found.last10, found.last10), **style)
    if name == LOSS:
        _scale(axes, drawn)
        axes.legend(fontsize="small")
    axes.set_ylabel(LABELS[name])
    axes.grid(visible=True, alpha=0.3)


def _outline(axes: Any, steps: Column, values: Column, colour: str, label: str | None = None) -> None:
    """A curve; where it has more rows than can be seen, the band between its extremes."""
    curve = outline(steps, values, POINTS)
    if len(curve.steps) == len(values):
        axes.plot(steps, values, color=colour, linewidth=1, label=label)
    else:
        axes.fill_between(curve.steps, curve.low, curve.high, color=colour, linewidth=0.8, label=label)


def _scale(axes: Any, drawn: Sequence[Column]) -> None:
    """Logarithmic where values are positive and differ by more than ten times."""
    least = min((float(values.min()) for values in drawn), default=0.0)
    if least > 0 and max(float(values.max()) for values in drawn) > 10 * least:
        axes.set_yscale("log")


def _figure(size: tuple[float, float]) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")
