"""Picture sheets: what a stage shows of itself, originals on the left, generated frames on the right.

A sheet of ours is a PNG that a person can look at and a program can read back exactly: where each frame lies
is written into a text chunk of the file, and small frames are enlarged by a whole factor without smoothing.

Shape legend: R rows (sequences, at most 4), F frames of a sequence (at most 4), H, W pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, PngImagePlugin
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from shared.bundle import DIRECTORY_OFFSET, Bundle, write_atomic
from shared.errors import BundleError
from shared.events import Stage
from shared.tinyworlds_sheets import frames_of

if TYPE_CHECKING:
    from collections.abc import Iterator

Pixels = NDArray[np.uint8]

MOST_ROWS, MOST_FRAMES = 4, 4
READABLE = 96
"""Frames smaller than this many pixels are enlarged."""
GAP, PANEL_GAP, MARGIN, TITLE = 4, 24, 12, 20
BACKGROUND, INK = (255, 255, 255), (40, 40, 40)
CHUNK = "worldloop-sheet"

NAMES: dict[Stage, str] = {
    "video_tokenizer": "video_tokenizer_recon",
    "latent_actions": "reconstructions_latent_actions",
    "dynamics": "dynamics_prediction",
}
"""TinyWorlds' file names, without `_step_N.png`."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """The frames of a sheet."""

    originals: Pixels
    """uint8 [R, F, H, W, 3]."""
    generated: Pixels
    """uint8 [R, G, H, W, 3], G <= F: the model's version of the last G originals of each row."""

    def pairs(self) -> tuple[Pixels, Pixels]:
        """Originals and generated frames that belong together, both [R, G, H, W, 3]."""
        return self.originals[:, -self.generated.shape[1] :], self.generated


class _Geometry(BaseModel):
    """Where the frames lie; what the text chunk holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: PositiveInt
    frames: PositiveInt
    generated_frames: PositiveInt
    height: PositiveInt
    width: PositiveInt
    scale: PositiveInt
    top: NonNegativeInt = MARGIN + TITLE
    gap: NonNegativeInt = GAP
    left: NonNegativeInt = MARGIN
    """x of the originals' first frame."""
    right: NonNegativeInt
    """x of the column that stands for the originals' first frame in the generated panel."""

    @property
    def panel(self) -> int:
        """Width of a panel in pixels of the sheet."""
        return self.frames * (self.width * self.scale + self.gap) - self.gap

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet."""
        below = self.top + self.rows * (self.height * self.scale + self.gap) - self.gap
        return self.right + self.panel + MARGIN, below + MARGIN

    def boxes(self, *, generated: bool) -> Iterator[tuple[int, int, int, int]]:
        """Row, frame, x, y of every frame of a panel; a generated frame has its original's column."""
        count = self.generated_frames if generated else self.frames
        for row in range(self.rows):
            for frame in range(count):
                column = frame + self.frames - count
                x = (self.right if generated else self.left) + column * (self.width * self.scale + self.gap)
                yield row, frame, x, self.top + row * (self.height * self.scale + self.gap)


MOST_PIXELS = 1 << 26
"""Of a sheet: larger ones than can be drawn of frames that models take."""


def write_sheet(path: Path, originals: Pixels, generated: Pixels) -> None:
    """Write a sheet; readers never see a part of it.

    Args:
        path: The PNG; see `sheet_path`.
        originals: uint8 [R <= 4, F <= 4, H, W, 3].
        generated: uint8 [R, G, H, W, 3]; with G < F they are the model's version of the last G originals
            (latent actions predict frames 1..T-1).

    Raises:
        ValueError: The arrays are of the wrong type or shape.
        OSError: The disk refused.
    """
    _check(originals, generated)
    rows, frames, height, width, _ = originals.shape
    scale = max(1, -(-READABLE // max(height, width)))
    panel = frames * (width * scale + GAP) - GAP
    geometry = _Geometry(
        rows=rows,
        frames=frames,
        generated_frames=generated.shape[1],
        height=height,
        width=width,
        scale=scale,
        right=MARGIN + panel + PANEL_GAP,
    )
    canvas = Image.new("RGB", geometry.size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((geometry.left, MARGIN), "original", fill=INK)
    draw.text((geometry.right, MARGIN), "generated", fill=INK)
    for array, is_generated in ((originals, False), (generated, True)):
        for row, frame, x, y in geometry.boxes(generated=is_generated):
            enlarged = array[row, frame].repeat(scale, axis=0).repeat(scale, axis=1)
            canvas.paste(Image.fromarray(enlarged), (x, y))
    text = PngImagePlugin.PngInfo()
    text.add_text(CHUNK, geometry.model_dump_json())
    stream = io.BytesIO()
    canvas.save(stream, "PNG", pnginfo=text, compress_level=3)
    write_atomic(path, stream.getvalue())


def _check(originals: Any, generated: Any) -> None:
    for name, array in (("originals", originals), ("generated", generated)):
        if array.dtype != np.uint8 or array.ndim != 5 or array.shape[-1] != 3 or 0 in array.shape:
            raise ValueError(f"{name} must be uint8 [rows, frames, H, W, 3], not {array.dtype} {array.shape}")
        if array.shape[0] > MOST_ROWS or array.shape[1] > MOST_FRAMES:
            raise ValueError(
                f"{name}: at most {MOST_ROWS} rows x {MOST_FRAMES} frames, not {array.shape[:2]}"
            )
    same = originals.shape[0] == generated.shape[0] and originals.shape[2:] == generated.shape[2:]
    if not same or generated.shape[1] > originals.shape[1]:
        raise ValueError(f"generated {generated.shape} do not belong to originals {originals.shape}")


def read_sheet(path: Path) -> Sheet:
    """The frames of a sheet of ours, pixel for pixel, or of TinyWorlds'.

    Raises:
        BundleError: The file is missing, broken, or no sheet; the text names it.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:  # what it is called by, not what it may pretend
            if image.width * image.height > MOST_PIXELS:
                raise BundleError(f"{path}: no sheet: {image.width} x {image.height} pixels are too many")
            text = getattr(image, "text", {}).get(CHUNK)
            pixels = np.asarray(image.convert("RGB"))
        geometry = _Geometry.model_validate_json(text) if text is not None else None
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:  # Pillow on a broken PNG
        raise BundleError(f"{path}: the sheet cannot be read: {error}") from error
    if geometry is None:
        try:
            return Sheet(*frames_of(pixels, predicts=path.name.startswith(NAMES["latent_actions"])))
        except ValueError as error:
            raise BundleError(
                f"{path}: no sheet of ours, for the text chunk {CHUNK!r} is missing, "
                f"and none of TinyWorlds': {error}"
            ) from error
    if geometry.size != (pixels.shape[1], pixels.shape[0]):
        raise BundleError(f"{path}: the picture was resized: its frames are not where its text chunk says")
    return Sheet(_cut(pixels, geometry, generated=False), _cut(pixels, geometry, generated=True))


def _cut(pixels: Pixels, geometry: _Geometry, *, generated: bool) -> Pixels:
    count = geometry.generated_frames if generated else geometry.frames
    frames = np.empty((geometry.rows, count, geometry.height, geometry.width, 3), dtype=np.uint8)
    high, wide, step = geometry.height * geometry.scale, geometry.width * geometry.scale, geometry.scale
    for row, frame, x, y in geometry.boxes(generated=generated):
        frames[row, frame] = pixels[y : y + high : step, x : x + wide : step]
    return frames


def sheet_path(bundle: Bundle, stage: Stage, step: int) -> Path:
    """Where the sheet of a stage with `step` updates done lies (names count from 0, as in TinyWorlds)."""
    return bundle.visualizations(stage) / f"{NAMES[stage]}_step_{step - DIRECTORY_OFFSET}.png"


def sheet_step(path: Path) -> int | None:
    """Updates done when a sheet was written, from its name; none if it is no sheet's name."""
    _, found, number = path.stem.rpartition("_step_")
    return int(number) + DIRECTORY_OFFSET if found and number.isascii() and number.isdigit() else None


def newest_sheet(folder: Path) -> Path | None:
    """The sheet with the highest step in a `visualizations/` folder, none if there is none."""
    if not folder.is_dir():
        return None
    steps = {path: step for path in folder.glob("*.png") if (step := sheet_step(path)) is not None}
    return max(steps, key=lambda path: steps[path], default=None)
