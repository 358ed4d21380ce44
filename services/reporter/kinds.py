"""The kinds of reports, and what a writer of one is given. The writers are entered in `reports.WRITERS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from services.reporter.config import Policy
from services.reporter.core.story import Outcome, Story
from shared.bundle import Bundle

Kind = Literal["loop", "git", "wandb", "retrospective", "inference"]
"""In the order of writing: later ones link to earlier ones."""


@dataclass(frozen=True, slots=True)
class Request:
    """One report that is asked for."""

    bundle: Bundle
    story: Story
    outcome: Outcome
    written: Mapping[Kind, str] = field(default_factory=dict)
    """Reports of this outcome that were written before this one: kind -> path, relative to the bundle."""
    problems: Mapping[Kind, str] = field(default_factory=dict)
    """Reports of this outcome that could not be written, and why."""
    again: bool = False
    """Built again from the bundle alone (`worldloop report RUN`): no network, no repository, nothing outside.
    What a report takes from elsewhere it keeps under `Logs/`, and finds it there then.
    """

    @property
    def policy(self) -> Policy:
        """The reporter's section of the run's policy."""
        return Policy.recorded(self.story.spec.policy.get("reporter", {}))

    def path(self, name: str, ending: str = ".md") -> Path:
        """`docs/action/<name>-<stamp><ending>`; the stamp is the decision's: a rebuilt report has it too."""
        return self.bundle.reports / f"{name}-{self.story.stamp}{ending}"

    def plots(self, name: str) -> Path:
        """`docs/action/plots/<name>-<stamp>/`."""
        return self.bundle.reports / "plots" / f"{name}-{self.story.stamp}"


Writer = Callable[[Request], str]
"""Writes a report and returns its path relative to the bundle; raises WorldloopError or OSError."""
