"""A stage's history with what is known of it: where it comes from, what counts, configuration and summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from services.reporter.core.wandb.table import Table
from shared.events import Stage

Source = Literal["api", "local", "none"]
"""W&B's API, files on this machine, or no history at all."""


@dataclass(frozen=True, slots=True)
class StageHistory:
    """What the analysis of one stage starts from."""

    stage: Stage
    source: Source
    why: str
    """Why it is this source, as a sentence."""
    counted: Table
    """Rows that led to the weights the stage has now."""
    superseded: Sequence[Table] = ()
    """Rows that a rollback made void, one table an attempt or file."""
    files: Sequence[str] = ()
    """Where rows were read: in a bundle relative to it, else as they were named."""
    runs: Sequence[str] = ()
    """W&B runs: ids of local ones, addresses of those that the API gave."""
    config: Mapping[str, Any] = field(default_factory=dict)
    config_of: str = ""
    """Whose configuration it is."""
    changed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Keys whose value in the newest plan is another: as W&B has it, as it was last trained with."""
    summary: Mapping[str, float] = field(default_factory=dict)
    """Logged name -> last number among the rows that count."""
    notes: Sequence[str] = ()
    """What a reader should know about the rows, each a sentence."""
