"""The reporter's section of `policy.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from shared.config import Config

WandbSource = Literal["api_first", "api_only", "local_only"]
"""W&B's API and else local files, the API alone, or local files alone."""


class Policy(Config):
    """What the W&B and git evidence reports are asked for; which reports a run needs is the gatekeeper's."""

    enable_wandb_analysis: bool = True
    wandb_source: WandbSource = "api_first"
    """Where the W&B report takes its history."""
    history_audit_year: Annotated[int, Field(ge=1970, le=9998)] = 2025
    """Year of the commits in the git evidence report."""
    history_audit_mode: Literal["strict", "wide", "current_paths"] = "strict"
    """Which commits count: the game in changed lines; anywhere; in paths that exist now."""
    history_repo: str | None = None
    """Git repository; none is the checkout that trains, else the directory the run was started in."""
