"""What the output of a stage's script tells while it trains: its progress bar, and the losses it prints."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

BAR = re.compile(r"(?<!\d)(\d{1,12})/(\d{1,12}) \[")
"""tqdm's `24/200 [00:03<00:26, 6.6it/s]`; bounded, so that a wall of digits costs no more than other text."""
PRINTED = re.compile(r"Step \d+ Loss: ([-+]?\d+\.?\d*(?:e[-+]?\d+)?|-?inf|nan)(?=\s|$)")


@dataclass(frozen=True, slots=True)
class Told:
    """What a piece of output tells."""

    updates: int = 0
    """Updates that the bar of the launch has counted; 0 if it was not seen."""
    non_finite: bool = False
    """A loss that is no finite number was printed."""
    loss: float | None = None
    """The newest finite loss that was printed."""

    def then(self, later: Told) -> Told:
        """What this and a later piece tell together."""
        return Told(
            max(self.updates, later.updates),
            self.non_finite or later.non_finite,
            self.loss if later.loss is None else later.loss,
        )


def told(text: str, updates: int) -> Told:
    """Read a piece of output.

    Args:
        text: The piece.
        updates: How many the launch makes: bars with another total are not of the training.
    """
    counted = [int(done) for done, total in BAR.findall(text) if int(total) == updates]
    losses = [float(loss) for loss in PRINTED.findall(text)]
    finite = [loss for loss in losses if math.isfinite(loss)]
    return Told(max(counted, default=0), len(finite) < len(losses), finite[-1] if finite else None)
