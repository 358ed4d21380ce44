"""The windows over which a column is averaged, at gates and in reports alike."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.events import WindowStats


def windows(values: NDArray[np.float64]) -> WindowStats:
    """Means over the thirds and over the first and last 10 % (at least one row) of values without NaN."""
    third, tenth = max(1, len(values) // 3), max(1, len(values) // 10)
    middle = values[third : len(values) - third]
    first10, last10 = float(values[:tenth].mean()), float(values[-tenth:].mean())
    return WindowStats(
        early=float(values[:third].mean()),
        mid=float((middle if len(middle) else values).mean()),
        late=float(values[-third:].mean()),
        first10=first10,
        last10=last10,
        delta=last10 - first10,
    )
