"""The pictures of a test: what happened in the game beside what a model made of it, still and moving.

Shapes: K clips, L frames of a clip, H, W pixels, 3 colours; uint8.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from shared.bundle import write_atomic

Pixels = npt.NDArray[np.uint8]

CELL = 96
GAP, LABEL_WIDTH, LINE, FONT_SIZE = 4, 92, 18, 12
DIFFERENCE_GAIN = 3
INK, PAPER, ACCENT = (40, 40, 40), (255, 255, 255), (190, 90, 20)


@dataclass(frozen=True, slots=True)
class Row:
    """One way to see the clips."""

    label: str
    frames: Pixels
    """[K, columns, H, W, 3]."""
    first: int = 0
    """Column of the first frame; those before stay empty."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Rows of frames, the same for every clip, below heads that name their columns."""

    title: str
    heads: tuple[str, ...]
    context: int
    """Leading columns that were given to the model."""
    rows: tuple[Row, ...]


def sheet_of_test(real: Pixels, predicted: Pixels, *, context: int, title: str) -> Sheet:
    """Ground truth, prediction and their difference.

    Args:
        real: [K, context + G, H, W, 3].
        predicted: [K, G, H, W, 3].
        context: Frames the model was given.
        title: One line above all.
    """
    generated = predicted.shape[1]
    given = (real[:, :context] // 3 + 170).astype(np.uint8)  # pale, because it is not predicted
    heads = ("context",) * context + tuple(f"+{frame}" for frame in range(1, generated + 1))
    rows = (
        Row("ground truth", real),
        Row("prediction", np.concatenate([given, predicted], axis=1)),
        Row(f"difference x{DIFFERENCE_GAIN}", difference(predicted, real[:, context:]), context),
    )
    return Sheet(title, heads, context, rows)


def difference(one: Pixels, other: Pixels) -> Pixels:
    """How far frames lie apart, as grey: the largest of the three colours' differences, magnified."""
    error = np.abs(one.astype(np.int16) - other).max(axis=-1, keepdims=True)
    return np.repeat(np.minimum(error * DIFFERENCE_GAIN, 255), 3, axis=-1).astype(np.uint8)


def write_picture(path: Path, sheet: Sheet) -> None:
    """Write a sheet as PNG: a column per frame, and for each clip a band of all rows.

    Raises:
        OSError: The disk refused; readers never see a part of the file.
    """
    clips, scale, cell_h, cell_w = _cells(sheet)
    left = [LABEL_WIDTH + column * (cell_w + GAP) for column in range(len(sheet.heads) + 1)]
    band = len(sheet.rows) * (cell_h + GAP) + LINE
    font = ImageFont.load_default(FONT_SIZE)
    width = max(left[-1], int(font.getlength(sheet.title)) + 2 * GAP)
    image, draw = _canvas(width, 2 * LINE + clips * band)
    draw.text((GAP, 2), sheet.title, INK, font)
    for column, head in enumerate(sheet.heads):
        draw.text((left[column], LINE + 2), head, INK if column < sheet.context else ACCENT, font)
    for clip in range(clips):
        for place, row in enumerate(sheet.rows):
            y = 2 * LINE + clip * band + place * (cell_h + GAP)
            draw.text((GAP, y + cell_h // 2 - 8), row.label, INK, font)
            for column, frame in enumerate(row.frames[clip], row.first):
                image.paste(_cell(frame, scale), (left[column], y))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    write_atomic(path, stream.getvalue())


def moving(sheet: Sheet) -> Iterator[Image.Image]:
    """A sheet as film: one picture per column, rows side by side, clips below each other; even in size."""
    clips, scale, cell_h, cell_w = _cells(sheet)
    width, font = max(cell_w, LABEL_WIDTH), ImageFont.load_default(FONT_SIZE)
    for column, head in enumerate(sheet.heads):
        image, draw = _canvas(GAP + len(sheet.rows) * (width + GAP), 2 * LINE + clips * (cell_h + GAP) + GAP)
        draw.text((GAP, 2), head, INK if column < sheet.context else ACCENT, font)
        for place, row in enumerate(sheet.rows):
            x = GAP + place * (width + GAP)
            draw.text((x, LINE + 2), row.label, INK, font)
            if 0 <= column - row.first < row.frames.shape[1]:
                for clip in range(clips):
                    frame = _cell(row.frames[clip, column - row.first], scale)
                    image.paste(frame, (x, 2 * LINE + clip * (cell_h + GAP)))
        yield image


def _cells(sheet: Sheet) -> tuple[int, int, int, int]:
    """Clips, enlargement, and height and width of a frame as shown."""
    clips, _, height, width = sheet.rows[0].frames.shape[:4]
    scale = max(1, round(CELL / max(height, width)))
    return clips, scale, height * scale, width * scale


def _canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width + width % 2, height + height % 2), PAPER)
    return image, ImageDraw.Draw(image)


def _cell(frame: Pixels, scale: int) -> Image.Image:
    height, width = frame.shape[:2]
    return Image.fromarray(frame).resize((width * scale, height * scale), Image.Resampling.NEAREST)


def spread(clips: int, most: int) -> Sequence[int]:
    """Which clips to show, at most so many, spread evenly."""
    return [int(clip) for clip in np.linspace(0, clips - 1, min(most, clips)).round()]
