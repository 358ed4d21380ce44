"""What a report takes from the bundle's files: where they are now, plots, other reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from services.reporter.core.hostile import code, inline
from services.reporter.core.markdown import link, picture

Where = Callable[[str, int | None], str | None]
"""Path of a file as an attempt's event names it, and the attempt -> its path now, none if it is gone.

An attempt's checkpoints and sheets are moved aside when a later attempt begins before them.
"""


def _as_named(path: str, _: int | None) -> str | None:
    return path


@dataclass(frozen=True, slots=True)
class Material:
    """Files that a report links and shows."""

    where: Where = _as_named
    plots: Mapping[str, str] = field(default_factory=dict)
    """Name -> picture, relative to the bundle."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """Name of a plot -> why there is none."""
    others: Mapping[str, str] = field(default_factory=dict)
    """What it is -> the run's other reports and exports, relative to the bundle."""

    def link(self, path: str | None, attempt: int | None = None, *, whole: bool = False) -> str:
        """A link that holds, or the path and that it is gone; `none` where there is none.

        Args:
            path: As an event names it.
            attempt: Of that event, for what a stage may have moved aside since.
            whole: Show the whole path, not its last part alone.
        """
        if path is None:
            return "none"
        found = self.where(path, attempt)
        if found is None:
            return f"{code(path)} (no longer there)"
        return link(found, found if whole else found.rpartition("/")[2])

    def picture(self, path: str, text: str) -> str:
        """A picture, or that it is gone."""
        found = self.where(path, None)
        return picture(found, text) if found is not None else f"The picture {code(path)} is no longer there."

    def plot(self, name: str, text: str) -> list[str]:
        """The lines of a plot, what is missing in it, or why there is none; nothing where none was tried."""
        problem = self.problems.get(name)
        why = inline(problem) if problem is not None else None
        if name in self.plots:
            missing = [f"Missing in it: {why}.", ""] if why is not None else []
            return [picture(self.plots[name], text), "", *missing]
        return [f"No plot of the {text}: {why}.", ""] if why is not None else []
