"""From a picture sheet to numbers on structure: how generated frames compare with their originals.

Each number answers one way in which output collapses, is computed per frame position (column of the sheet,
over all rows) and reported for the worst position, so that good frames do not average a collapsed one away.
Blur, which every young model shows, must cost little in any of them: `contrast` and `edges` look at scales
that survive it, `flat_blocks` asks for no detail at all, `striping` counts energy that the original lacks.

Shape legend: R rows, G frame positions, H, W pixels, C colours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.events import VisualNumbers

Levels = NDArray[np.float32]

BLOCK = 4
"""Side of the patches of `flat_blocks`: divides every patch size in use."""
DETAILED = 16.0
"""Spread (levels of 255) from which on an original patch has detail."""
FLAT = 1.5
"""Spread below which a generated patch is one flat colour."""
REACH = 3
"""Pixels over which edges are measured: a blurred edge still rises over twice this."""
EDGE = 32.0
"""Difference (levels) across an original's edge."""
STRIPE_CYCLES = 4
"""Stripes repeat at least this often over a frame; slower changes are structure."""
VISIBLE = 2.0
"""Spread (levels) below which there is nothing to see."""


def numbers(
    originals: NDArray[np.uint8], generated: NDArray[np.uint8], *, sheet: str, step: int, fresh: bool
) -> VisualNumbers:
    """Measure a sheet.

    Args:
        originals: uint8 [R, G, H, W, 3].
        generated: uint8 [R, G, H, W, 3], frame for frame the model's version of `originals`.
        sheet: The file, relative to the bundle.
        step: Updates done when it was written.
        fresh: Whether it was written after the chunk started.
    """
    real, made = originals.astype(np.float32), generated.astype(np.float32)
    return VisualNumbers(
        sheet=sheet,
        step=step,
        fresh=fresh,
        frames=generated.shape[0] * generated.shape[1],
        contrast=_lowest(_spread(real), _spread(made)),
        flat_blocks=_flat_blocks(real, made),
        striping=max(_striping(real, made, axis=2), _striping(real, made, axis=3)),
        edges=_edges(real, made),
    )


def _lowest(real: Levels, made: Levels) -> float:
    """Lowest ratio made/real over the frame positions [G] whose originals have something to compare with."""
    worth = real > VISIBLE
    return float((made[worth] / real[worth]).min()) if worth.any() else 1.0


def _spread(frames: Levels) -> Levels:
    """Standard deviation of the pixels around their frame's mean colour, [G]."""
    deviation = frames - frames.mean(axis=(2, 3), keepdims=True)
    spread: Levels = np.sqrt((deviation**2).mean(axis=(0, 2, 3, 4)))
    return spread


def _flat_blocks(real: Levels, made: Levels) -> float:
    """A patch whose detail only moved into a neighbour is not flat."""
    detailed = _block_spread(real) > DETAILED
    flat = detailed & (_with_neighbours(_block_spread(made)) < FLAT)
    of_position = detailed.sum(axis=(0, 2, 3))
    worth = of_position > 0
    return float((flat.sum(axis=(0, 2, 3))[worth] / of_position[worth]).max()) if worth.any() else 0.0


def _block_spread(frames: Levels) -> Levels:
    """Largest standard deviation over the colours of each patch, [R, G, H // BLOCK, W // BLOCK]."""
    rows, count, height, width, colours = frames.shape
    high, wide = height // BLOCK, width // BLOCK
    cut = frames[:, :, : high * BLOCK, : wide * BLOCK]
    spread: Levels = cut.reshape(rows, count, high, BLOCK, wide, BLOCK, colours).std(axis=(3, 5)).max(axis=-1)
    return spread


def _with_neighbours(spread: Levels) -> Levels:
    """Largest value of each patch and the eight around it."""
    padded = np.pad(spread, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="constant")
    high, wide = spread.shape[2:]
    around = [padded[:, :, y : y + high, x : x + wide] for y in range(3) for x in range(3)]
    largest: Levels = np.max(around, axis=0)
    return largest


def _striping(real: Levels, made: Levels, *, axis: int) -> float:
    """Share of the generated energy that sits at one frequency along `axis` and is not in the original."""
    length = made.shape[axis]
    if length < 2 * STRIPE_CYCLES:
        return 0.0
    surplus = _profile_power(made, axis) - _profile_power(real, axis)  # [G, frequencies]
    energy = _spread(made) ** 2 + VISIBLE**2  # [G]
    highest = surplus[:, STRIPE_CYCLES:].max(axis=1)
    return float(np.clip(highest / energy, 0.0, 1.0).max())


def _profile_power(frames: Levels, axis: int) -> Levels:
    """Variance that each frequency of the mean rows (or columns) explains, over R and C, [G, frequencies]."""
    other = 5 - axis  # 2 is height, 3 is width
    profile = frames.mean(axis=other)  # [R, G, length, C]
    length = profile.shape[2]
    amplitude = np.abs(np.fft.rfft(profile, axis=2)) / length
    power = 2.0 * amplitude**2
    if length % 2 == 0:
        power[:, :, -1] /= 2.0  # the highest frequency has no mirror image
    mean: Levels = power.mean(axis=(0, 3)).astype(np.float32)
    return mean


def _edges(real: Levels, made: Levels) -> float:
    """Generated difference across the original's edges, in the original's direction, over the original's."""
    wanted = found = np.zeros(real.shape[1], dtype=np.float32)
    for axis in (2, 3):
        across_real, across_made = _across(real, axis), _across(made, axis)
        edge = np.abs(across_real) > EDGE
        wanted = wanted + np.where(edge, np.abs(across_real), 0.0).sum(axis=(0, 2, 3, 4))
        along = np.where(edge, across_made * np.sign(across_real), 0.0)
        found = found + along.sum(axis=(0, 2, 3, 4))
    worth = wanted > 0
    return float(np.maximum(found[worth] / wanted[worth], 0.0).min()) if worth.any() else 1.0


def _across(frames: Levels, axis: int) -> Levels:
    """Differences over 2 * REACH pixels along an axis."""
    length = frames.shape[axis]
    if length <= 2 * REACH:
        return np.zeros_like(frames[:, :, :1, :1])
    ahead = np.take(frames, range(2 * REACH, length), axis=axis)
    behind = np.take(frames, range(length - 2 * REACH), axis=axis)
    return ahead - behind
