"""Reads the frames out of TinyWorlds' picture sheets, which carry no description of themselves.

Such a sheet is a figure on white with two panels, originals left, generated frames right. A panel is a grid
of frames with black lines of two frame pixels between and around them, enlarged by no whole factor. The lines
say where the frames lie: of all grids that fit a panel's shape, the one with the widest lines that are black
throughout is taken. A pixel is read at its middle, so what was enlarged without smoothing comes back exactly.

Shape legend: R rows (sequences), F frames of a sequence, G generated frames of it, H, W pixels (H = W).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

LINE = 2
"""Pixels of a frame that a black line is wide."""
SIZES = (64, 128)
"""Heights and widths of TinyWorlds' frames."""
MOST = 4
"""Frames in a row of the grid, and rows of originals; generated frames may fill more rows."""
MOST_ROWS = 16
DARK = 80
"""Levels up to which a pixel can belong to a black line that was smoothed."""
MOSTLY = 0.9
"""Share of a line that must be that dark."""
WHITE = 250
SHAPE_TOLERANCE = 0.012
"""Relative error of a panel's height over its width; tight cropping and rounding cost that much."""


@dataclass(frozen=True, slots=True)
class _Grid:
    size: int
    columns: int
    rows: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in frame pixels."""
        pitch = self.size + LINE
        return self.rows * pitch + LINE, self.columns * pitch + LINE


def frames_of(picture: Pixels, *, predicts: bool) -> tuple[Pixels, Pixels]:
    """Originals [R, F, H, W, 3] and generated frames [R, G, H, W, 3] of a sheet.

    Args:
        picture: uint8 [height, width, 3].
        predicts: It is the sheet of a model that generates the frames after the first (latent actions): their
            grid is filled four in a row, sequence after sequence, G = F - 1 of each are kept.

    Raises:
        ValueError: There are no two panels, or no grid of frames in them; the text says which.
    """
    left, right = (_panel(part) for part in _parts(picture))
    grid = _grid(left, MOST)
    originals = _cut(left, grid)
    generated_grid = _grid(right, MOST_ROWS, size=grid.size)
    generated = _cut(right, generated_grid)
    if not predicts:
        if generated.shape != originals.shape:
            raise ValueError(f"{originals.shape[:2]} originals, but {generated.shape[:2]} generated frames")
        return originals, generated
    if grid.columns < 2:
        raise ValueError("one original a row: nothing can have been predicted")
    return originals, _predicted(generated, grid)


def _predicted(tiles: Pixels, originals: _Grid) -> Pixels:
    """The generated frames 1..F-1 of each sequence, from tiles filled row by row."""
    wanted = originals.columns - 1
    filled = tiles.reshape(-1, *tiles.shape[2:])
    rows_if_wanted = -(-originals.rows * wanted // tiles.shape[1])
    each = wanted if rows_if_wanted == tiles.shape[0] else len(filled) // originals.rows
    if each < wanted:
        raise ValueError(f"{len(filled)} generated frames are too few for {originals.rows} sequences")
    return filled[: originals.rows * each].reshape(originals.rows, each, *filled.shape[1:])[:, :wanted]


def _parts(picture: Pixels) -> tuple[Pixels, Pixels]:
    """The two sides of the figure: columns between the white margins."""
    inked = (picture < WHITE).any(axis=(0, 2))
    edges = np.flatnonzero(np.diff(np.concatenate(([False], inked, [False])).astype(np.int8)))
    wide = [
        (start, end) for start, end in edges.reshape(-1, 2).tolist() if end - start > picture.shape[1] // 8
    ]
    if len(wide) != 2:
        raise ValueError(f"two panels were expected beside each other, {len(wide)} found")
    return picture[:, wide[0][0] : wide[0][1]], picture[:, wide[1][0] : wide[1][1]]


def _panel(part: Pixels) -> Pixels:
    """From the first to the last row that is black throughout: the grid without its title."""
    black = np.flatnonzero(
        (part <= DARK).all(axis=2).mean(axis=1) > MOSTLY
    )  # the figure's edge may be smoothed
    if len(black) < 2:
        raise ValueError("a panel has no black lines around its frames")
    return part[black[0] : black[-1] + 1]


def _grid(panel: Pixels, most_rows: int, *, size: int | None = None) -> _Grid:
    dark: NDArray[np.bool_] = np.asarray((panel <= DARK).all(axis=2))
    height, width = dark.shape
    candidates = product(SIZES if size is None else (size,), range(MOST, 0, -1), range(most_rows, 0, -1))
    for grid in (_Grid(*candidate) for candidate in candidates):
        high, wide = grid.shape
        fits = abs(height / width * wide / high - 1) < SHAPE_TOLERANCE
        if (
            fits
            and dark[_lines(height, grid.rows, grid)].mean() > MOSTLY
            and (dark[:, _lines(width, grid.columns, grid)].mean() > MOSTLY)
        ):
            return grid
    raise ValueError(f"no grid of {' or '.join(map(str, SIZES))} pixel frames fits a panel")


def _middles(length: int, count: int, pixels: NDArray[np.intp]) -> NDArray[np.intp]:
    """Where the middles of some of `count` frame pixels lie on an axis of `length` sheet pixels."""
    return ((pixels + 0.5) * length / count).astype(np.intp)


def _lines(length: int, tiles: int, grid: _Grid) -> NDArray[np.intp]:
    pitch = grid.size + LINE
    starts = np.arange(tiles + 1) * pitch
    return _middles(length, tiles * pitch + LINE, (starts[:, None] + np.arange(LINE)).ravel())


def _cut(panel: Pixels, grid: _Grid) -> Pixels:
    pitch = grid.size + LINE
    within = LINE + np.arange(grid.size)

    def places(length: int, tiles: int) -> NDArray[np.intp]:
        wanted = (np.arange(tiles)[:, None] * pitch + within).ravel()
        return _middles(length, tiles * pitch + LINE, wanted)

    down, across = places(panel.shape[0], grid.rows), places(panel.shape[1], grid.columns)
    pixels = panel[down[:, None], across]
    tiles = pixels.reshape(grid.rows, grid.size, grid.columns, grid.size, 3)
    return np.ascontiguousarray(tiles.transpose(0, 2, 1, 3, 4))
