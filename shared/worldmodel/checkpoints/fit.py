"""Whether models fit together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.config import ARCHITECTURE
from shared.errors import CheckpointError
from shared.events import Stage


def architecture_of(config: Mapping[str, Any], stage: Stage) -> dict[str, int]:
    """The values that decide the shapes of a stage's weights.

    Args:
        config: `Checkpoint.config`, or a `StageConfig` as dict.
        stage: The stage.

    Raises:
        CheckpointError: One of them is missing or no positive number; names the key.
    """
    found = {key: config.get(key) for key in ARCHITECTURE[stage]}
    wrong = [key for key, value in found.items() if not isinstance(value, int) or value < 1]
    if wrong:
        raise CheckpointError(f"the checkpoint's config of {stage} has no usable {', '.join(wrong)}")
    return {key: value for key, value in found.items() if value is not None}


def check_same_architecture(architectures: Mapping[str, Mapping[str, int]]) -> None:
    """Make sure that models fit together: every key that two of them have agrees.

    Args:
        architectures: What to call each in an error (a path, "the configuration") -> `architecture_of`.

    Raises:
        CheckpointError: Names each key that differs, its values and whose they are.
    """
    values: dict[str, dict[int, list[str]]] = {}
    for name, architecture in architectures.items():
        for key, value in architecture.items():
            values.setdefault(key, {}).setdefault(value, []).append(name)
    differing = [
        f"{key} is " + " and ".join(f"{value} in {', '.join(names)}" for value, names in found.items())
        for key, found in values.items()
        if len(found) > 1
    ]
    if differing:
        raise CheckpointError(
            f"architectures differ: {'; '.join(differing)}. "
            "Take checkpoints that were trained together, or set the configuration to theirs"
        )
