"""The inference service's section of the policy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.config import Config

Seconds = Annotated[float, Field(gt=0)]


class Policy(Config):
    """How the inference test is measured; what gates is the gatekeeper's."""

    backend: Literal["own", "checkout"] = "own"
    """Who runs the test: worldloop's rollout, or the checkout's `scripts/run_inference.py`."""
    checkout_silence_sec: Seconds = 600.0
    """The checkout's script is ended when it prints nothing for this long."""
    checkout_timeout_sec: Seconds = 3600.0
    """... and after this long in any case."""
    action_seeds: Annotated[int, Field(gt=0)] = 5
    """Random action sequences that delta-PSNR averages over."""
    picture_clips: Annotated[int, Field(gt=0)] = 4
    """Clips in the picture, at most."""
