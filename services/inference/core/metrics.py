"""What the inference test measures, as functions of pixels.

Shapes: K clips, G generated frames per clip, H, W pixels, 3 colours; pixels are floats in [0, 1], predictions
clamped. Only generated frames come in here: the context is excluded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]

ROUNDING_MSE = 1 / (12 * 255**2)
"""What rounding to 8 bits alone costs; a smaller error counts as this one, 58.9 dB."""
SSIM_WINDOW = 7
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


def frame_mse(predicted: Array, target: Array) -> Array:
    """Mean squared error of each frame, [K, G, H, W, 3] twice -> [K, G]."""
    error: Array = np.square(predicted.astype(np.float64) - target).mean(axis=(-3, -2, -1))
    return error


def frame_psnr(mse: Array) -> Array:
    """Peak signal-to-noise ratio of each frame, dB, from its mean squared error."""
    ratio: Array = -10 * np.log10(np.maximum(mse, ROUNDING_MSE))
    return ratio


def skill(mse: float, baseline_mse: float) -> float | None:
    """Share of a baseline's error that the model avoids, 1 at best; none if the baseline has no error."""
    return None if baseline_mse == 0 else 1 - mse / baseline_mse


def skills(mse: Array, baseline_mse: Array) -> list[float]:
    """Skill per frame [G]; empty if it is undefined for one of them."""
    found = [skill(float(m), float(b)) for m, b in zip(mse, baseline_mse, strict=True)]
    return [value for value in found if value is not None] if None not in found else []


def motion(frames: Array) -> Array:
    """How much moves from each frame to the next, over all clips: [K, G, H, W, 3] -> [G-1]."""
    moved: Array = np.abs(np.diff(frames.astype(np.float64), axis=1)).sum(axis=(0, 2, 3, 4))
    return moved


def motion_ratio(predicted: Array, target: Array) -> float | None:
    """Movement of the prediction over that of the target, between successive generated frames.

    Frozen predictions have 0. None where the target does not move, or there is one frame only.
    """
    moved = float(motion(target).sum())
    return None if moved == 0 else float(motion(predicted).sum()) / moved


def motion_ratios(predicted: Array, target: Array) -> list[float]:
    """The same from each generated frame to the next [G-1]; empty if the target stands still at one."""
    moved, wanted = motion(predicted), motion(target)
    return [] if (wanted == 0).any() else (moved / wanted).tolist()


def frame_ssim(predicted: Array, target: Array) -> Array:
    """Structural similarity of each frame, [..., H, W, 3] twice -> [...].

    Wang et al. 2004 with a uniform 7x7 window, sample covariance, averaged over the three colours and all
    places where the window fits (scikit-image's default). Smaller frames take a window of their own size.
    """
    size = min(SSIM_WINDOW, *predicted.shape[-3:-1])
    pixels = size * size
    x, y = predicted.astype(np.float64), target.astype(np.float64)
    mean_x, mean_y = _windows(x, size), _windows(y, size)
    unbiased = pixels / (pixels - 1) if pixels > 1 else 1.0
    var_x = unbiased * (_windows(x * x, size) - mean_x**2)
    var_y = unbiased * (_windows(y * y, size) - mean_y**2)
    cov = unbiased * (_windows(x * y, size) - mean_x * mean_y)
    similar = (2 * mean_x * mean_y + SSIM_C1) * (2 * cov + SSIM_C2)
    total = (mean_x**2 + mean_y**2 + SSIM_C1) * (var_x + var_y + SSIM_C2)
    found: Array = (similar / total).mean(axis=(-3, -2, -1))
    return found


def _windows(images: Array, size: int) -> Array:
    """Mean over every size x size window, [..., H, W, 3] -> [..., H-size+1, W-size+1, 3]."""
    for axis in (-3, -2):
        summed = np.insert(np.cumsum(images, axis=axis), 0, 0.0, axis=axis)
        ends, starts = [slice(None)] * summed.ndim, [slice(None)] * summed.ndim
        ends[axis], starts[axis] = slice(size, None), slice(None, -size)
        images = (summed[tuple(ends)] - summed[tuple(starts)]) / size
    return images


def mse_with_context(generated_mse: float, *, context: int, generated: int) -> float:
    """The reference's number: the copied context counts too, with an error of 0."""
    return generated_mse * generated / (context + generated)
