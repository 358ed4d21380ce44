"""Plots of a stage: its loss over all attempts, and what its latent actions did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from services.reporter.core.story import Attempt
from services.reporter.plots.canvas import figure, save
from services.reporter.plots.curves import draw, mark_gates, read_curves
from shared.bundle import Bundle
from shared.errors import BundleError
from shared.events import Stage

LOSS, ENTROPY, UNIQUE = "train/loss", "action_entropy", "unique_actions"


def draw_losses(path: Path, bundle: Bundle, stage: Stage, attempts: Sequence[Attempt]) -> list[str]:
    """Draw the loss: what counts in colour, the superseded in grey, gates and rollbacks marked.

    Returns:
        What is missing in it.

    Raises:
        BundleError: There is no row to draw.
        OSError: The disk refused.
    """
    found = read_curves(bundle, attempts, [LOSS])
    curves = found.of[LOSS]
    if not curves:
        raise BundleError("; ".join(found.missing) or f"the histories of {stage} hold no loss")
    made, (axes,) = figure()
    draw(axes, curves, LOSS)
    mark_gates(axes, attempts)
    losses = [loss for curve in curves for loss in curve.values]
    if min(losses) > 0 and max(losses) > 10 * min(losses):
        axes.set_yscale("log")
    axes.set(xlabel="updates done", ylabel=LOSS, title=stage)
    save(path, made)
    return found.missing


def draw_actions(path: Path, bundle: Bundle, stage: Stage, attempts: Sequence[Attempt]) -> list[str]:
    """Draw action entropy and unique actions, one above the other, as `draw_losses` draws the loss."""
    found = read_curves(bundle, attempts, [ENTROPY, UNIQUE])
    if not any(found.of.values()):
        raise BundleError("; ".join(found.missing) or f"the histories of {stage} hold no action statistics")
    made, (upper, lower) = figure(2)
    draw(upper, found.of[ENTROPY], ENTROPY)
    draw(lower, found.of[UNIQUE], UNIQUE)
    mark_gates(upper, attempts, legend=False)
    mark_gates(lower, attempts)
    upper.set(ylabel="action entropy, nats", title=stage)
    lower.set(xlabel="updates done", ylabel="unique actions")
    for axes in (upper, lower):
        axes.set_ylim(bottom=0)
    save(path, made)
    return found.missing
