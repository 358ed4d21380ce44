"""How many decoding steps a frame may take so that the asked rate holds. Pure: times come in as values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

HEADROOM = 0.85
"""Share of a frame's time that may be spent; the rest is the event loop's and the machine's."""
SURE = 0.9
"""A step more is taken only when it fits into this share of that."""
REMEMBERED = 9
"""Frames whose times count. Their median: a frame that the machine did something else in tells nothing."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Steps per frame, found from what the last frames took."""

    fps: float
    """Frames per second that are asked for."""
    most: int
    """Steps beyond which nothing is left to decide."""
    steps: int
    """For the next frame."""
    times: tuple[tuple[float, float], ...] = ()
    """Of the last frames, seconds: one decoding step, everything else."""

    def after(self, decoding: float, total: float) -> Pace:
        """The pace once a frame is known to have taken `total` seconds, `decoding` of them in `steps` steps.

        Fewer steps at once when time runs out, one more at a time when there is plenty.
        """
        times = (*self.times, (decoding / self.steps, total - decoding))[-REMEMBERED:]
        step, rest = median(each for each, _ in times), median(each for _, each in times)
        budget = HEADROOM / self.fps
        steps = self.steps
        if rest + steps * step > budget:
            steps = max(1, int((budget - rest) / step))
        elif rest + (steps + 1) * step <= SURE * budget:
            steps = min(self.most, steps + 1)
        return replace(self, steps=steps, times=times)
