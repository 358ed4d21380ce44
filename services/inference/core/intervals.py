"""95 % intervals over clips: where the mean of what K clips were drawn from lies.

Clips of one recording are not independent, so an interval is a lower bound of the doubt.
"""

from __future__ import annotations

import math

import numpy as np

from services.inference.core.metrics import Array

Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)
ERROR, SIMILARITY = (0.0, math.inf), (-1.0, 1.0)
"""Between what values a number can lie: an error; a similarity."""

T_975 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
"""Student's t, 97.5 %, for 1 to 10 degrees of freedom."""
Z_975 = 1.959964


def interval95(values: Array, bounds: Interval = ANY) -> Interval | None:
    """Student's interval of a mean, from its values at K clips; none for a single clip.

    Args:
        values: [K].
        bounds: What the mean can be at all.
    """
    half = _half(values)
    mean = float(np.mean(values))
    return None if half is None else (max(bounds[0], mean - half), min(bounds[1], mean + half))


def skill_interval95(mse: Array, baseline_mse: Array) -> Interval | None:
    """Interval of a skill, 1 - mean of errors / mean of the baseline's, from both at K clips.

    The ratio's variance is that of its linearization (Cochran, Sampling Techniques, 1977, chapter 6).

    Returns:
        None for a single clip, or if the baseline has no error.
    """
    baseline = float(np.mean(baseline_mse))
    if baseline == 0:
        return None
    ratio = float(np.mean(mse)) / baseline
    half = _half(mse - ratio * baseline_mse)
    return None if half is None else (1 - ratio - half / baseline, min(1.0, 1 - ratio + half / baseline))


def per_frame(values: Array, bounds: Interval = ANY) -> list[Interval]:
    """`interval95` at each frame of [K, G]; empty for a single clip."""
    return [found for frame in values.T if (found := interval95(frame, bounds)) is not None]


def skill_per_frame(mse: Array, baseline_mse: Array) -> list[Interval]:
    """`skill_interval95` at each frame of [K, G]; empty if it is undefined at one of them."""
    pairs = zip(mse.T, baseline_mse.T, strict=True)
    found = [interval for frame in pairs if (interval := skill_interval95(*frame)) is not None]
    return found if len(found) == mse.shape[1] else []


def _half(values: Array) -> float | None:
    count = len(values)
    return None if count < 2 else _t975(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)


def _t975(degrees: int) -> float:
    if degrees <= len(T_975):
        return T_975[degrees - 1]
    z = Z_975  # Cornish-Fisher expansion, good to 1e-4 from here on
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )
