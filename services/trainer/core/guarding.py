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
TORCHRUN = ("torch.distributed.run", "/torchrun")
"""What starts them, as module or as script."""
WITH_VALUE = ("-W", "-X")
"""Options of the interpreter that take the next word."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the system says about a process of the same user."""

    pid: int
    command_line: Sequence[str]
    environment: Mapping[str, str]
    directory: str | None
    """Its working directory, none if it cannot be read."""


def is_launcher(command_line: Sequence[str]) -> bool:
    """Whether a command line runs one of the stage entry points.

    Python has to run it, itself or through torchrun: who edits or checks a stage's script is left alone.
    """
    interpreter = command_line[0].rpartition("/")[2].lower() if command_line else ""
    if not interpreter.startswith("python"):
        return False
    program, arguments = _program(command_line)
    if program.endswith(TORCHRUN):
        return any(_is_entry(word) for word in arguments)
    return _is_entry(program)


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


def _program(command_line: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The module or script that an interpreter runs, empty for code, and its arguments."""
    at = 1
    while at < len(command_line):
        word = command_line[at]
        if word == "-c":
            break
        if not word.startswith("-"):
            return word, command_line[at + 1 :]
        at += 2 if word in WITH_VALUE else 1
    return "", ()


def _is_entry(word: str) -> bool:
    return word == ENTRY or word.endswith(SCRIPTS)
