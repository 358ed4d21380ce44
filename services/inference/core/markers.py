"""What the inference script of a TinyWorlds checkout says of its test, read off what it prints."""

from __future__ import annotations

import re
from dataclasses import dataclass

from shared.events import STAGES, Stage

CHECKPOINT = re.compile(r"^Using (\w+) checkpoint: (.+?)\s*$", re.MULTILINE)
FRAME = re.compile(r"^Inferring frame (\d+)/(\d+)", re.MULTILINE)
STATISTICS = re.compile(r"^Inference stats:", re.MULTILINE)
MSE = re.compile(r"^Mean Squared Error \(GT vs Pred\):\s*(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Said:
    """What was printed."""

    checkpoints: dict[Stage, str]
    """Paths as printed; of a stage that is named twice, the last."""
    frames: int
    """Decodings that were begun."""
    statistics: bool
    mse: float | None
    """None for no line or one that holds no number; may be no finite number."""


def read(output: str) -> Said:
    """Read the script's output; what is not there is empty, 0 or none."""
    counted = [(int(number), int(of)) for number, of in FRAME.findall(output)]
    printed = dict(CHECKPOINT.findall(output))
    errors = MSE.findall(output)
    return Said(
        checkpoints={stage: printed[stage] for stage in STAGES if stage in printed},
        frames=len({number for number, of in counted if 1 <= number <= of}),
        statistics=STATISTICS.search(output) is not None,
        mse=_number(errors[-1]) if errors else None,
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
