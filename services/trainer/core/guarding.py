"""Which processes are training launchers, and whose."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from services.trainer.core.launch import ENTRY, LAUNCHER
from shared.events import STAGES

STACK, RUN, ATTEMPT = "WORLDLOOP_STACK", "WORLDLOOP_RUN", "WORLDLOOP_ATTEMPT"
"""Marks in the environment: of everything a stack starts, and of its training launchers."""
FILES = tuple(f"train_{stage}.py" for stage in STAGES)
SCRIPTS = tuple(f"/scripts/{file}" for file in FILES)
"""Stage entry points of a TinyWorlds checkout."""

INTERPRETER = re.compile(r"pythonw?\d*(\.\d+)*t?(\.exe)?", re.IGNORECASE)
WITH_VALUE = ("-W", "-X")
"""Options of the interpreter that take the next word."""
TORCHRUN = ("torch.distributed.run", "torchrun", LAUNCHER)
"""What starts them, as module or as script."""
AS_MODULE, NO_PYTHON = ("-m", "--module"), "--no-python"
FLAGS = (*AS_MODULE, NO_PYTHON, "--standalone", "--run-path", "--virtual-local-rank")
"""Options of torchrun that take no value."""

Mark = Literal["this stack", "another stack", "none", "unreadable"]
"""Whose mark a process bears."""


def entry(command_line: Sequence[str]) -> str | None:
    """The word of a command line that names a stage entry point, if it may be one.

    Python has to run it, itself or through torchrun: who edits or checks a stage's script is left alone.
    A script's word may be relative to the working directory; whether it is a stage's, `is_launcher` says.
    """
    interpreter = command_line[0].rpartition("/")[2] if command_line else ""
    if not INTERPRETER.fullmatch(interpreter):
        return None
    program, arguments = _run_by_python(command_line)
    if program.rpartition("/")[2] in TORCHRUN:
        program = _run_by_torchrun(arguments)
    return program if program == ENTRY or program.rpartition("/")[2] in FILES else None


def is_launcher(entry: str) -> bool:
    """Whether this is a stage entry point: a script of the right name in another directory is none.

    Args:
        entry: The module of our own entry point, or the path of a script, absolute where the process's
            working directory is known.
    """
    return entry == ENTRY or f"/{entry}".endswith(SCRIPTS)


def ours(*, same_user: bool, mark: Mark, in_checkout: bool) -> bool:
    """Whether this stack may end a launcher.

    Args:
        same_user: It runs as this user.
        mark: The one in its environment.
        in_checkout: It works in the checkout that is trained in, or runs a script of it.
    """
    return same_user and (mark == "this stack" or (mark == "none" and in_checkout))


def _run_by_python(command_line: Sequence[str]) -> tuple[str, Sequence[str]]:
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


def _run_by_torchrun(arguments: Sequence[str]) -> str:
    """The module or script that torchrun has its ranks run, empty for a program that is not Python's."""
    at, flags = 0, set[str]()
    while at < len(arguments):
        word = arguments[at]
        if not word.startswith("-"):
            as_module = not flags.isdisjoint(AS_MODULE)
            return "" if NO_PYTHON in flags or as_module != (word == ENTRY) else word
        option = word.replace("_", "-")
        flags.add(option)
        has_value = "=" in word or (not word.startswith("--") and len(word) > len("-r"))
        at += 1 if option in FLAGS or has_value else 2
    return ""
