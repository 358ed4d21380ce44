"""From a picture sheet to numbers on structure: how generated frames compare with their originals.

Each number answers one way in which output collapses. All are ratios to the originals, so that dark, pale and
empty games are judged alike, and all but `frozen` are computed for each frame position (column of the sheet)
and for each row, and reported for the worst, so that good frames do not average a collapsed one away. Where a
dynamics sheet had masked patches, those are judged in a frame, the rest of it being the tokenizer's work.

What a young model shows must cost little in any number: blur, a texture that repeats from patch to patch,
sprites that are not there yet.

Shape legend: R rows, F original and G generated frames of a row (the last G originals have a generated
frame), H, W pixels, C colours, Y, X squares of `SIDE` pixels.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.monitor.core.covered import Shown, plain, uncovered
from shared.events import Stage, VisualNumbers

Levels = NDArray[np.float32]
Weights = NDArray[np.float32]

FINEST = 64
"""Of frames with a multiple of this many pixels, only so many are looked at: more would only cost time."""
SIDE = 4
"""Side of the squares that part coarse structure from fine detail: divides every patch size in use."""
DETAILED = 8.0
"""Spread (levels of 255) from which on a square of the original has detail."""
FLAT = 0.1
"""Share of the original's spread below which a generated square is one flat colour."""
FEW = 4.0
"""Detailed squares a frame, on average, up to which a share of them says nothing."""
REACH = 1 / 20
"""Half the distance, as a share of the frame, over which edges are measured: a blurred edge still rises."""
EDGE = 16.0
"""Difference (levels) across an original's edge."""
STRIPE_CYCLES = 4
"""Stripes repeat at least this often over a frame; slower changes are structure."""
VISIBLE = 2.0
"""Spread (levels) below which there is nothing to see."""
MOVES = 0.5
"""Spread over time (levels, over all pixels) below which nothing moves."""
SHOWN = 0.1
"""Share of pixels that a sheet must show in all frames to say anything on motion."""


class _Squares(NamedTuple):
    """A sheet in squares of `SIDE` pixels."""

    mean: Levels
    """[R, G, Y, X, C]"""
    variance: Levels
    """Within the square, [R, G, Y, X, C]."""


def numbers(
    stage: Stage,
    originals: NDArray[np.uint8],
    generated: NDArray[np.uint8],
    *,
    sheet: str,
    step: int,
    fresh: bool,
) -> VisualNumbers:
    """Measure a sheet.

    Args:
        stage: Whose it is; the originals of dynamics have masked patches grey.
        originals: uint8 [R, F, H, W, 3].
        generated: uint8 [R, G, H, W, 3], G <= F: the model's version of the last G originals of each row.
        sheet: The file, relative to the bundle.
        step: Updates done when it was written.
        fresh: Whether it was written after the chunk started.
    """
    shown = uncovered(originals) if stage == "dynamics" else plain(originals)
    count, apart = generated.shape[1], max(1, min(generated.shape[2:4]) // FINEST)
    shown, generated = shown.every(apart), generated[:, :, ::apart, ::apart]
    real, made = shown.frames[:, -count:].astype(np.float32), generated.astype(np.float32)
    judged = _judged(shown, count)
    inside = _inside(judged)
    squares_real, squares_made = _squares(real), _squares(made)
    return VisualNumbers(
        sheet=sheet,
        step=step,
        fresh=fresh,
        frames=generated.shape[0] * count,
        contrast=_contrast(squares_real, squares_made, inside),
        flat_blocks=_flat_blocks(squares_real, squares_made, inside),
        striping=_striping(real, made, judged),
        edges=_edges(real, made, judged),
        noise=_noise(squares_real, squares_made, inside),
        frozen=_frozen(shown, made, squares_real, squares_made),
    )


def _judged(shown: Shown, count: int) -> Weights:
    """1 for a pixel that is compared, in a frame with masks those that were masked, [R, G, H, W, 1]."""
    hidden, unknown = shown.hidden[:, -count:], shown.unknown[:, -count:]
    masked = hidden.any(axis=(2, 3), keepdims=True)
    judged: Weights = ((hidden | ~masked) & ~unknown)[..., None].astype(np.float32)
    return judged


def _worst(part: Levels, whole: Levels, *, least: float, lowest: bool) -> float | None:
    """Worst of part / whole [R, G] over frame positions and rows, none where no whole reaches `least`."""
    ratios = [
        part.sum(axis=axis)[worth] / whole.sum(axis=axis)[worth]
        for axis in (0, 1)
        if (worth := whole.sum(axis=axis) > least * whole.shape[axis]).any()
    ]
    if not ratios:
        return None
    every = np.concatenate(ratios)
    return float(every.min() if lowest else every.max())


def _inside(judged: Weights) -> Weights:
    """1 for a square all of whose pixels are judged, [R, G, Y, X, 1]."""
    inside: Weights = _in_squares(judged).min(axis=(3, 5))
    return inside


def _in_squares(frames: Levels) -> Levels:
    """[R, G, H, W, C] cut into squares [R, G, Y, SIDE, X, SIDE, C]; the rest at the border is left out."""
    rows, count, height, width, colours = frames.shape
    high, wide = height // SIDE, width // SIDE
    cut = frames[:, :, : high * SIDE, : wide * SIDE]
    return cut.reshape(rows, count, high, SIDE, wide, SIDE, colours)


def _squares(frames: Levels) -> _Squares:
    cut = _in_squares(frames)
    return _Squares(cut.mean(axis=(3, 5)), cut.var(axis=(3, 5)))


def _between(squares: _Squares, inside: Weights) -> Levels:
    """Variance of the squares' means in each frame, over all colours, [R, G]."""
    weight = np.maximum(inside.sum(axis=(2, 3), keepdims=True), 1.0)
    centre = (squares.mean * inside).sum(axis=(2, 3), keepdims=True) / weight
    between: Levels = (((squares.mean - centre) ** 2 * inside) / weight).sum(axis=(2, 3)).mean(axis=-1)
    return between


def _within(squares: _Squares, inside: Weights) -> Levels:
    """Mean variance within the squares of each frame, over all colours, [R, G]."""
    weight = np.maximum(inside.sum(axis=(2, 3, 4)), 1.0)
    within: Levels = (squares.variance * inside).mean(axis=-1).sum(axis=(2, 3)) / weight
    return within


def _contrast(real: _Squares, made: _Squares, inside: Weights) -> float:
    """Generated over original spread of coarse structure: noise on one flat colour has none."""
    ratio = _worst(_between(made, inside), _between(real, inside), least=VISIBLE**2, lowest=True)
    return 1.0 if ratio is None else ratio**0.5


def _flat_blocks(real: _Squares, made: _Squares, inside: Weights) -> float:
    """A square whose detail only moved into a neighbour is not flat."""
    detail_real = real.variance.max(axis=-1)
    detail_made = _with_neighbours(made.variance.max(axis=-1) * inside[..., 0])
    detailed = (detail_real > DETAILED**2) & (inside[..., 0] > 0)
    flat = detailed & (detail_made < np.maximum(FLAT**2 * detail_real, 1.0))
    share = _worst(
        flat.sum(axis=(2, 3)).astype(np.float32),
        detailed.sum(axis=(2, 3)).astype(np.float32),
        least=FEW,
        lowest=False,
    )
    return share or 0.0


def _with_neighbours(squares: Levels) -> Levels:
    """Largest value of each square and the eight around it, [R, G, Y, X]."""
    padded = np.pad(squares, ((0, 0), (0, 0), (1, 1), (1, 1)))
    high, wide = squares.shape[2:]
    around = [padded[:, :, y : y + high, x : x + wide] for y in range(3) for x in range(3)]
    largest: Levels = np.max(around, axis=0)
    return largest


def _noise(real: _Squares, made: _Squares, inside: Weights) -> float:
    """Share of the generated energy that is fine detail beyond the original's."""
    fine = _within(made, inside)
    excess = fine - _within(real, inside)
    share = _worst(excess, fine + _between(made, inside) + VISIBLE**2, least=0.0, lowest=False)
    return max(share or 0.0, 0.0)


def _striping(real: Levels, made: Levels, judged: Weights) -> float:
    """Share of the generated energy that repeats at one frequency and direction, beyond the original's."""
    height, width = made.shape[2:4]
    if min(height, width) < 2 * STRIPE_CYCLES:
        return 0.0
    power_made = _power(made, judged)
    surplus = power_made - _power(real, judged)
    down = np.abs(np.fft.fftfreq(height, 1 / height))[:, None]
    across = np.fft.rfftfreq(width, 1 / width)
    surplus = np.where(np.maximum(down, across) >= STRIPE_CYCLES, surplus, 0.0)
    spread = np.pad(surplus, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="wrap")  # a frequency between two bins
    peaks = np.zeros_like(surplus)
    for y, x in product(range(3), range(3)):
        peaks += spread[:, :, y : y + surplus.shape[2], x : x + surplus.shape[3]]
    energy = (_deviation(made, judged) ** 2).sum(axis=(2, 3)).mean(axis=-1)
    energy = energy / np.maximum(judged.sum(axis=(2, 3, 4)), 1.0) + VISIBLE**2
    shares = [(peaks.sum(axis=axis) / energy.sum(axis=axis)[:, None, None]).max() for axis in (0, 1)]
    return float(np.clip(max(shares), 0.0, 1.0))


def _deviation(frames: Levels, judged: Weights) -> Levels:
    """Judged pixels around their frame's mean colour, 0 elsewhere, [R, G, H, W, C]."""
    weight = np.maximum(judged.sum(axis=(2, 3), keepdims=True), 1.0)
    deviation: Levels = (frames - (frames * judged).sum(axis=(2, 3), keepdims=True) / weight) * judged
    return deviation


def _power(frames: Levels, judged: Weights) -> Levels:
    """Variance that each wave over the judged pixels explains, over all colours, [R, G, H, W // 2 + 1].

    A frequency and its mirror image count together. Divided by the judged pixels twice, a wave's power does
    not depend on how many pixels are judged.
    """
    weight = np.maximum(judged.sum(axis=(2, 3)), 1.0)[:, :, None]  # [R, G, 1, 1]
    waves = np.fft.rfft2(_deviation(frames, judged), axes=(2, 3))
    power: Levels = (2.0 * (np.abs(waves) ** 2).mean(axis=-1) / weight**2).astype(np.float32)
    return power


def _edges(real: Levels, made: Levels, judged: Weights) -> float:
    """Generated difference across the original's edges, in the original's direction, over the original's."""
    wanted = found = np.zeros(real.shape[:2], dtype=np.float32)
    for axis in (2, 3):
        ahead, behind = _ends(real.shape[axis])
        if len(ahead) == 0:
            continue
        across_real, across_made = (
            frames.take(ahead, axis) - frames.take(behind, axis) for frames in (real, made)
        )
        edge = (np.abs(across_real) > EDGE) * judged.take(ahead, axis) * judged.take(behind, axis)
        wanted = wanted + (np.abs(across_real) * edge).sum(axis=(2, 3, 4))
        found = found + (across_made * np.sign(across_real) * edge).sum(axis=(2, 3, 4))
    ratio = _worst(found, wanted, least=0.0, lowest=True)
    return 1.0 if ratio is None else max(ratio, 0.0)


def _ends(length: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places ahead of and behind each edge along an axis."""
    reach = max(1, int(length * REACH))
    return np.arange(2 * reach, length), np.arange(max(length - 2 * reach, 0))


def _frozen(shown: Shown, made: Levels, squares_real: _Squares, squares_made: _Squares) -> float:
    """How much all generated frames of the rows show what moved where one and the same original has it.

    1 is that original over and over; 0 is motion as in the originals, or a picture as far from both. Only
    places that no frame of the row masks count: elsewhere the sheet does not show how they moved. A picture
    without the sprites is no frozen one, though it equals an original that lacks them (some games flicker):
    so the share of the originals' detail that the moving places have counts too.
    """
    frames, count = shown.frames.astype(np.float32), made.shape[1]
    rest = frames.mean(axis=1, keepdims=True)
    visible = ~np.asarray(shown.hidden.any(axis=1, keepdims=True))[..., None]
    if visible.mean() < SHOWN:
        return 0.0
    moved = (frames - rest) * visible
    real, found = _by_frame(moved), _by_frame((made - rest) * visible)
    alike, own = found @ real.T, real @ real.T  # [G, F], [F, F]
    true = np.arange(len(real) - count, len(real))  # the original of each generated frame
    itself = own[true, true][:, None]
    towards = (alike - alike[np.arange(count), true][:, None] - own[true] + itself).sum(axis=0)  # [F]
    apart = (np.diag(own) + itself - 2.0 * own[true]).sum(axis=0)
    moves = apart > MOVES**2 * count * real.shape[1]
    if not moves.any():
        return 0.0
    held = float((2.0 * towards[moves] / apart[moves] - 1.0).max())
    places = _in_squares(moved**2).sum(axis=(1, 3, 5))[:, None]  # [R, 1, Y, X, C]
    detail = float((squares_made.variance * places).sum() / max((squares_real.variance * places).sum(), 1.0))
    return max(0.0, min(held, 1.0)) * min(float(np.sqrt(detail)), 1.0)


def _by_frame(frames: Levels) -> Levels:
    """[R, F, H, W, C] as [F, all pixels of a frame's position]."""
    return frames.swapaxes(0, 1).reshape(frames.shape[1], -1)
