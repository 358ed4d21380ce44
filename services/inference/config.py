"""The inference service's section of the policy."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared.config import Config


class Policy(Config):
    """How the inference test is measured; what gates is the gatekeeper's."""

    action_seeds: Annotated[int, Field(gt=0)] = 5
    """Random action sequences that delta-PSNR averages over."""
    picture_clips: Annotated[int, Field(gt=0)] = 4
    """Clips in the picture, at most."""
