"""What the inference script of a TinyWorlds checkout is asked for: its command line."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from services.inference.core.clips import STANDARD_PRELOAD, Layout
from shared.config import InferenceConfig
from shared.datasets.names import stride_of
from shared.errors import WorldloopError
from shared.events import Stage

SKIPPED = {"sonic": 100, "picodoom": 300, "zelda": 1000}
"""Leading frames that TinyWorlds leaves out of a game's file."""
PATHS: dict[Stage, str] = {
    "video_tokenizer": "video_tokenizer_path",
    "latent_actions": "latent_actions_path",
    "dynamics": "dynamics_path",
}


def arguments(
    settings: InferenceConfig,
    checkpoints: Mapping[Stage, str],
    *,
    game: str,
    frames: int,
    keys: Collection[str],
) -> list[str]:
    """The overrides, `key=value` each.

    Args:
        settings: The test.
        checkpoints: The selected ones, absolute.
        game: What the recording shows, as its file's name says.
        frames: In the recording's file.
        keys: Those of the checkout's `configs/inference.yaml`; what only some TinyWorlds have is given to
            those that have it.

    Raises:
        WorldloopError: The script cannot do what is asked for.
    """
    if settings.sample_index is not None and "sample_index" not in keys:
        raise WorldloopError(
            "configs/inference.yaml of the checkout has no sample_index: leave out --sample-index, or test "
            "with --inference-backend own"
        )
    if not settings.use_actions:
        raise WorldloopError(
            "use_actions is false: the checkout's script then names no latent-action checkpoint, and the "
            "gate wants all three. Leave use_actions true, or test with --inference-backend own"
        )
    layout = Layout.of(settings)
    values: dict[str, Any] = {
        "use_latest_checkpoints": False,
        "dataset": game.upper(),
        "device": settings.device,
        "use_actions": True,
        "use_gt_actions": False,
        "use_interactive_mode": False,
        "teacher_forced": settings.teacher_forced,
        "context_window": settings.context_window,
        "prediction_horizon": settings.prediction_horizon,
        "generation_steps": layout.steps,
        "temperature": settings.temperature,
        "preload_ratio": _preload_ratio(frames, game, layout.length, settings.sample_index or 0),
        **{PATHS[stage]: path for stage, path in checkpoints.items()},
    }
    optional = {
        **({"amp": False, "compile": False} if settings.device == "cpu" else {}),
        "decode_steps": settings.decode_steps,
        "seed": settings.seed,
        "sample_index": settings.sample_index,
    }
    values |= {key: value for key, value in optional.items() if key in keys and value is not None}
    return [f"{key}={_text(value)}" for key, value in values.items()]


def _preload_ratio(frames: int, game: str, length: int, first: int) -> float:
    """The leading fraction of the file: the standard one, or what a clip needs.

    Args:
        frames: In the file.
        game: As the file's name says.
        length: Frames of a clip.
        first: Clips before the one that is asked for.
    """
    needed = SKIPPED.get(game, 0) + first + length * stride_of(None, game) + 1
    return round(max(STANDARD_PRELOAD, min(1.0, (needed + 0.5) / frames)), 6)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
