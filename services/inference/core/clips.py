"""Which frames the inference test is run on, and which actions at which step.

A clip is `context` real frames and the frames to generate. Generation goes in steps of `horizon` frames; step
s sees the `context` frames before it, so its window is frames [s * horizon, s * horizon + context + horizon).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.config import InferenceConfig

Indices = npt.NDArray[np.int64]

STANDARD_PRELOAD = 0.02
"""Leading fraction of the file that the reference takes its one clip from."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a clip is divided, in frames."""

    context: int
    horizon: int
    generated: int

    @classmethod
    def of(cls, settings: InferenceConfig) -> Layout:
        """The layout that a configuration asks for."""
        return cls(settings.context_window, settings.prediction_horizon, settings.generation_steps)

    @property
    def steps(self) -> int:
        """Decodings per clip; the last may generate more than is wanted."""
        return -(-self.generated // self.horizon)

    @property
    def length(self) -> int:
        """Frames of a clip."""
        return self.context + self.steps * self.horizon

    def window(self, step: int) -> slice:
        """Frames of a clip that belong to a step: its context and what it generates."""
        return slice(step * self.horizon, step * self.horizon + self.context + self.horizon)

    def transitions(self, step: int) -> slice:
        """Transitions of a clip that lie within the step's window."""
        window = self.window(step)
        return slice(window.start, window.stop - 1)


def clip_starts(frames: range, span: int, clips: int) -> Indices:
    """First frames of clips spread evenly over a part of a recording, each once.

    Args:
        frames: The part.
        span: Frames of the file that a clip reaches over.
        clips: Clips wanted; fewer where the part has fewer different ones.

    Returns:
        int64, rising; empty if not one clip fits.
    """
    room = len(frames) - span + 1
    if room < 1:
        return np.empty(0, np.int64)
    return frames.start + np.unique(np.linspace(0, room - 1, min(clips, room)).round().astype(np.int64))


def standard_start(frames: int, span: int, *, sample_index: int | None, seed: int) -> int | None:
    """First frame of the reference's clip: the given one, else a random one of the leading 2 % of the file.

    Returns:
        None if the clip does not fit.
    """
    room = frames - span + 1
    if sample_index is not None:
        return sample_index if 0 <= sample_index < room else None
    if room < 1:
        return None
    leading = max(1, int(frames * STANDARD_PRELOAD) - span + 1)
    return int(np.random.default_rng(seed).integers(min(leading, room)))


def given_codes(codes: Indices, clips: int, layout: Layout) -> Indices:
    """Action codes as they are given: one leads to each generated frame; after the last, the first again.

    Returns:
        int64 [clips, L-1], one per transition; those within the real context are 0.
    """
    table = np.zeros((clips, layout.length - 1), np.int64)
    table[:, layout.context - 1 :] = np.resize(codes, layout.steps * layout.horizon)
    return table


def random_codes(codes: Indices, shape: tuple[int, ...], seed: int) -> Indices:
    """Action codes drawn evenly from those given."""
    return np.random.default_rng(seed).choice(codes, shape)
