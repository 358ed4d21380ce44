"""A contact sheet: a recording at a glance. Rows are moments spread over it, columns what follows each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from shared.errors import DatasetError

ROWS, COLUMNS = 6, 8
SMALLEST_TILE = 96
"""Smaller frames are enlarged, pixel by pixel."""
CAPTION = 14
"""Height of the line that tells a frame's number, pixels."""


def contact_sheet(frames: Any, stride: int, path: Path) -> None:
    """Draw the sheet of a recording.

    Args:
        frames: uint8 [N, H, W, 3], an h5 dataset or an array.
        stride: Distance in the file between two frames of a row.
        path: PNG to write.

    Raises:
        DatasetError: The path is not of a PNG, or the picture cannot be written.
    """
    if path.suffix.lower() != ".png":  # it replaces what is there: never a recording
        raise DatasetError(f"{path}: a contact sheet is a PNG. Name a file that ends in .png with --sheet")
    last = len(frames) - 1
    rows = min(ROWS, len(frames))
    starts = [round(at) for at in np.linspace(0, max(0, last - (COLUMNS - 1) * stride), rows)]
    height, width = frames.shape[1:3]
    scale = max(1, -(-SMALLEST_TILE // max(height, width)))
    tile_w, tile_h = width * scale + 2, height * scale + CAPTION
    sheet = Image.new("RGB", (COLUMNS * tile_w, len(starts) * tile_h), "white")
    draw = ImageDraw.Draw(sheet)
    for row, start in enumerate(starts):
        for column in range(COLUMNS):
            index = start + column * stride
            if index > last:
                break
            tile = Image.fromarray(frames[index]).resize(
                (width * scale, height * scale), Image.Resampling.NEAREST
            )
            sheet.paste(tile, (column * tile_w, row * tile_h + CAPTION))
            draw.text((column * tile_w + 2, row * tile_h + 1), str(index), fill="black")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, format="PNG")
    except OSError as error:
        raise DatasetError(
            f"{path}: the contact sheet cannot be written ({error}). Name another file with --sheet, or "
            "leave it out with --no-sheet"
        ) from error
