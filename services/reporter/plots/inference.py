"""Plot of an inference test: the error of each generated frame beside those of its baselines."""

from __future__ import annotations

from pathlib import Path

from services.reporter.plots.canvas import COUNTS, OTHER, SUPERSEDED, figure, save
from shared.errors import BundleError
from shared.events import InferenceDone


def draw_frames(path: Path, done: InferenceDone, max_mse: float) -> list[str]:
    """Draw MSE per frame with its 95 % interval, persistence, the tokenizer's own error, and the limit.

    Returns:
        What is missing in it.

    Raises:
        BundleError: The test has no error per frame.
        OSError: The disk refused.
    """
    if not done.mse_per_frame:
        raise BundleError("the test reports no error per frame")
    made, (axes,) = figure()
    frames = range(1, len(done.mse_per_frame) + 1)
    interval = done.intervals_per_frame.get("mse", [])
    if len(interval) == len(frames):
        low, high = zip(*interval, strict=True)
        axes.fill_between(frames, low, high, color=COUNTS, alpha=0.15, linewidth=0)
    lines = (
        ("model", done.mse_per_frame, COUNTS, "o"),
        ("repeating the last frame", done.persistence_per_frame, OTHER, "s"),
        ("tokenizer alone", done.tokenizer_per_frame, SUPERSEDED, "^"),
    )
    for label, values, colour, marker in lines:
        if len(values) == len(frames):
            axes.plot(frames, values, color=colour, marker=marker, markersize=4, linewidth=1.2, label=label)
    axes.axhline(max_mse, color="#c03028", linestyle="--", linewidth=1, label=f"limit {max_mse:g}")
    if min(done.mse_per_frame) > 0:
        axes.set_yscale("log")
    axes.set(xlabel="generated frame", ylabel="MSE", title=f"inference try {done.inference_try}, {done.mode}")
    axes.legend(fontsize="small", loc="best")
    save(path, made)
    return [label for label, values, *_ in lines if len(values) != len(frames)]
