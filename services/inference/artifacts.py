"""The files of a test: the picture, without which it is none, and the film, whose failure is a warning."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from PIL import Image

from services.inference.evaluation import Evaluation
from services.inference.film import write_preview, write_video
from services.inference.picture import Sheet, moving, sheet_of_test, spread, write_picture

STEM = "inference_results_gt_vs_pred"
SHOWN = {
    "mse": ("mse", "persistence_mse", "skill", "psnr", "motion_ratio"),
    "mse_standard": ("mse_standard",),
}
"""Number that gates -> numbers in the title."""


@dataclass(frozen=True, slots=True)
class Artifacts:
    """What was written."""

    picture: Path
    video: Path | None
    preview: Path | None
    problem: str | None
    """Why there is no video or no preview."""


def write_artifacts(
    found: Evaluation, directory: Path, now: datetime, *, title: str, context: int, clips: int
) -> Artifacts:
    """Write a test's picture and film under a name of their own.

    Args:
        found: The test.
        directory: Where to; it is made.
        now: Goes into the name.
        title: What was tested, above the picture.
        context: Frames the models were given.
        clips: Clips to show, at most.

    Raises:
        OSError: The picture could not be written.
    """
    sheet = _sheet(found, title, context, clips)
    picture = free_path(directory, STEM, now)
    write_picture(picture, sheet)
    video, no_video = _film(picture.with_suffix(".mp4"), sheet, write_video)
    preview, no_preview = _film(picture.with_suffix(".webp"), sheet, write_preview)
    return Artifacts(picture, video, preview, "; ".join(filter(None, (no_video, no_preview))) or None)


def free_path(directory: Path, stem: str, now: datetime) -> Path:
    """A PNG file that is not there yet, named by the time."""
    name = f"{stem}_{now:%Y%m%d_%H%M%S}"
    path, count = directory / f"{name}.png", 1
    while path.exists():
        count += 1
        path = directory / f"{name}_{count}.png"
    return path


def _sheet(found: Evaluation, title: str, context: int, clips: int) -> Sheet:
    shown = spread(len(found.real), clips)
    values = {key: found.numbers[key] for key in SHOWN[found.numbers["gated_by"]]}
    measured = "   ".join(f"{key} {'-' if each is None else f'{each:.4g}'}" for key, each in values.items())
    predicted = np.rint(found.predicted[shown] * 255).astype(np.uint8)
    return sheet_of_test(found.real[shown], predicted, context=context, title=f"{title}:   {measured}")


def _film(
    path: Path, sheet: Sheet, write: Callable[[Path, Iterable[Image.Image]], None]
) -> tuple[Path | None, str | None]:
    """The file, or why there is none: a codec may fail in any way, and no test fails with it."""
    try:
        write(path, moving(sheet))
    except Exception as error:  # noqa: BLE001 - it becomes the result's `problem`
        return None, f"{path.name}: {type(error).__name__}: {error}"
    return path, None
