"""Which processes are training launchers, and whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from services.trainer.core.launch import ENTRY
from shared.events import STAGES

STACK, RUN, ATTEMPT = "WORLDLOOP_STACK", "WORLDLOOP_RUN", "WORLDLOOP_ATTEMPT"
"""Marks in the environment: of everything a stack starts, and of its training launchers."""
SCRIPTS = tuple(f"scripts/train_{stage}.py" for stage in STAGES)
"""Stage entry points of a TinyWorlds checkout."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the system says about a process of the same user."""

    pid: int
    command_line: Sequence[str]
    environment: Mapping[str, str]
    directory: str | None
    """Its working directory, none if it cannot be read."""


def is_launcher(command_line: Sequence[str]) -> bool:
    """Whether a command line runs one of the stage entry points."""
    return any(word == ENTRY or word.endswith(SCRIPTS) for word in command_line[1:])


def owner(candidate: Candidate, *, stack: str, checkout: str) -> Literal["ours", "other"]:
    """Whether this stack may end a launcher.

    Args:
        candidate: A process for which `is_launcher` holds.
        stack: State directory of this stack.
        checkout: Directory in which unmarked launchers count as ours.
    """
    mark = candidate.environment.get(STACK)
    if mark is not None:
        return "ours" if mark == stack else "other"
    return "ours" if candidate.directory == checkout else "other"
