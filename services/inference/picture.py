"""The picture of an inference test: what happened in the game beside what the model thought would happen."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from shared.bundle import write_atomic

Pixels = npt.NDArray[np.uint8]

CELL = 96
GAP, LABEL_WIDTH, LINE = 4, 92, 18
DIFFERENCE_GAIN = 3
INK, PAPER, ACCENT = (40, 40, 40), (255, 255, 255), (190, 90, 20)


def write_picture(path: Path, real: Pixels, predicted: Pixels, *, context: int, title: str) -> None:
    """Write ground truth, prediction and their difference, a band of three rows per clip.

    Args:
        path: PNG file to write; readers never see a part of it.
        real: uint8 [K, context + G, H, W, 3].
        predicted: uint8 [K, G, H, W, 3].
        context: Frames the model was given.
        title: One line above all.

    Raises:
        OSError: The disk refused.
    """
    clips, length, height, width = real.shape[:4]
    scale = max(1, round(CELL / max(height, width)))
    cell_h, cell_w = height * scale, width * scale
    band = 3 * (cell_h + GAP) + LINE
    sheet = Image.new("RGB", (LABEL_WIDTH + length * (cell_w + GAP), 2 * LINE + clips * band), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=12)
    draw.text((GAP, 2), title, INK, font)
    for column in range(length):
        head = "context" if column < context else f"+{column - context + 1}"
        draw.text((_left(column, cell_w), LINE + 2), head, INK if column < context else ACCENT, font)
    for clip in range(clips):
        top = 2 * LINE + clip * band
        for row, label in enumerate(("ground truth", "prediction", f"difference x{DIFFERENCE_GAIN}")):
            y = top + row * (cell_h + GAP)
            draw.text((GAP, y + cell_h // 2 - 8), label, INK, font)
            for column in range(length):
                frame = _cell(
                    row, real[clip, column], predicted[clip, column - context] if column >= context else None
                )
                if frame is not None:
                    picture = Image.fromarray(frame).resize((cell_w, cell_h), Image.Resampling.NEAREST)
                    sheet.paste(picture, (_left(column, cell_w), y))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    write_atomic(path, stream.getvalue())


def _left(column: int, cell_w: int) -> int:
    return LABEL_WIDTH + column * (cell_w + GAP)


def _cell(row: int, real: Pixels, predicted: Pixels | None) -> Pixels | None:
    if row == 0:
        return real
    if row == 1:
        return (
            predicted if predicted is not None else (real // 3 + 170).astype(np.uint8)
        )  # given, not predicted
    if predicted is None:
        return None
    error = np.abs(predicted.astype(np.int16) - real).max(axis=-1, keepdims=True)
    return np.repeat(np.minimum(error * DIFFERENCE_GAIN, 255), 3, axis=-1).astype(np.uint8)
