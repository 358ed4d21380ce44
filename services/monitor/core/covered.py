"""Patches that a dynamics sheet shows grey on the left: they were masked, what stood there is not to be seen.

Shape legend: R rows, G frame positions, H, W pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

SIDE = 4
"""Masked patches are made of whole squares of this many pixels."""
GREYS = (126, 132)
"""Masked is the middle of the colour range: 128 in our sheets, 131 in TinyWorlds'."""


def uncovered(originals: Pixels, generated: Pixels) -> Pixels:
    """The originals of a dynamics sheet without their masks, uint8 [R, G, H, W, 3].

    A masked place is taken from the nearest frame of its sequence that shows it. Where none does, there is
    nothing to compare with: the generated pixels stand in.
    """
    hidden = _hidden(originals)
    found = originals.copy()
    missing = hidden.copy()
    count = originals.shape[1]
    for distance in range(1, count):
        for frame in range(count):
            for other in (frame - distance, frame + distance):
                if 0 <= other < count:
                    take = missing[:, frame] & ~hidden[:, other]
                    found[:, frame][take] = originals[:, other][take]
                    missing[:, frame] &= ~take
    found[missing] = generated[missing]
    return found


def _hidden(originals: Pixels) -> NDArray[np.bool_]:
    """Which pixels lie in squares of the masks' grey, [R, G, H, W]."""
    rows, count, height, width, _ = originals.shape
    grey = (originals >= GREYS[0]) & (originals <= GREYS[1])
    high, wide = height // SIDE, width // SIDE
    squares = (
        grey[:, :, : high * SIDE, : wide * SIDE].all(axis=-1).reshape(rows, count, high, SIDE, wide, SIDE)
    )
    hidden = np.zeros((rows, count, height, width), dtype=np.bool_)
    whole = squares.all(axis=(3, 5)).repeat(SIDE, axis=2).repeat(SIDE, axis=3)
    hidden[:, :, : high * SIDE, : wide * SIDE] = whole
    return hidden
