"""Which actions the models are told at each step of a test.

Shapes: K clips, L frames of a clip, Tc context frames. Per step, the actions of every transition in its
window, int64 [K, Tc - 1 + horizon].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.inference.core.clips import Indices, Layout, clip_starts, given_codes, random_codes
from services.inference.world import World
from shared.config import InferenceConfig
from shared.datasets.frames import FramesDataset, span_of
from shared.datasets.mapping import Frames
from shared.errors import UsageError

ACTION_WINDOWS = 256
"""Windows, at most, in which the codes in use are counted."""
ACTION_BATCH = 32


def inferred_codes(world: World, clips: Frames, layout: Layout) -> list[Indices]:
    """Per step, actions as training saw them: inferred from the frames of the step's own window."""
    return [world.action_codes(clips[:, layout.window(step)]) for step in range(layout.steps)]


def told_codes(
    world: World, inferred: Sequence[Indices], layout: Layout, settings: InferenceConfig
) -> Sequence[Indices]:
    """Per step, the actions that the test asks for.

    Raises:
        UsageError: `action_codes` are none of the models' codes.
    """
    if settings.actions == "inferred":
        return inferred
    if settings.actions == "random":
        return guessed_codes(inferred, np.arange(world.actions_total), layout, settings.seed)
    if (highest := max(settings.action_codes)) >= world.actions_total:
        raise UsageError(
            f"action_codes: {highest} is no action of these models; their codes are "
            f"0 .. {world.actions_total - 1}"
        )
    codes = np.array(settings.action_codes, np.int64)
    return _from_table(inferred, given_codes(codes, len(inferred[0]), layout), layout)


def guessed_codes(inferred: Sequence[Indices], codes: Indices, layout: Layout, seed: int) -> list[Indices]:
    """Per step, actions drawn evenly from some codes."""
    return _from_table(inferred, random_codes(codes, (len(inferred[0]), layout.length - 1), seed), layout)


def codes_in_use(world: World, dataset: FramesDataset, *, held_out: bool) -> Indices:
    """Codes that occur in the held-out part, or in the whole file if nothing is held out, rising."""
    part = dataset.held_out if held_out else range(len(dataset.frames))
    length = min(dataset.context_length, (len(part) - 1) // dataset.stride + 1)
    starts = clip_starts(part, span_of(length, dataset.stride), ACTION_WINDOWS)
    batches = (starts[at : at + ACTION_BATCH] for at in range(0, len(starts), ACTION_BATCH))
    return np.unique(
        np.concatenate([world.action_codes(dataset.clips(batch, length)).ravel() for batch in batches])
    )


def _from_table(inferred: Sequence[Indices], table: Indices, layout: Layout) -> list[Indices]:
    """Per step, actions of a table [K, L-1]; those within the real context stay as they are."""
    table[:, : layout.context - 1] = inferred[0][:, : layout.context - 1]
    return [table[:, layout.transitions(step)] for step in range(layout.steps)]
