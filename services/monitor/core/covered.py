"""What the originals of a sheet show: a dynamics sheet has them with masked patches grey.

Shape legend: R rows, F frames of a row, H, W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

SIDE = 4
"""Masked patches are made of whole squares of this many pixels."""
GREYS = (126, 132)
"""Masked is the middle of the colour range: 128 in our sheets, 131 in TinyWorlds'."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Originals as far as a sheet shows them."""

    frames: Pixels
    """uint8 [R, F, H, W, 3]; a masked place is taken from the nearest frame of its row that shows it."""
    hidden: Mask
    """[R, F, H, W]: was masked; what the model made there is its own work."""
    unknown: Mask
    """[R, F, H, W]: was masked in every frame of its row; nothing can be compared there."""

    def every(self, step: int) -> Shown:
        """Every `step`-th pixel of each row and column of pixels."""
        apart = slice(None, None, step)
        return Shown(
            self.frames[:, :, apart, apart], self.hidden[:, :, apart, apart], self.unknown[:, :, apart, apart]
        )


def plain(originals: Pixels) -> Shown:
    """Originals [R, F, H, W, 3] of a sheet without masks."""
    nowhere = np.zeros(originals.shape[:4], dtype=np.bool_)
    return Shown(originals, nowhere, nowhere)


def uncovered(originals: Pixels) -> Shown:
    """Originals [R, F, H, W, 3] of a dynamics sheet without their masks."""
    hidden = _hidden(originals)
    frames, missing = originals.copy(), hidden.copy()
    count = originals.shape[1]
    for distance in range(1, count):
        for frame in range(count):
            for other in (frame - distance, frame + distance):
                if 0 <= other < count:
                    take = missing[:, frame] & ~hidden[:, other]
                    frames[:, frame][take] = originals[:, other][take]
                    missing[:, frame] &= ~take
    return Shown(frames, hidden, missing)


def _hidden(originals: Pixels) -> Mask:
    """Which pixels lie in squares of the masks' grey, [R, F, H, W]."""
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
