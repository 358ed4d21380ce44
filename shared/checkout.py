"""A TinyWorlds repository on this machine: what has to be in it, and which programs run it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

from shared.errors import UsageError
from shared.events import STAGES, CheckoutSpec, Stage

TRAINING = "configs/training.yaml"
INFERENCE_SCRIPT, INFERENCE_CONFIG = "scripts/run_inference.py", "configs/inference.yaml"
ENVIRONMENTS = (".venv", "venv")
"""Directories in which a repository keeps its own interpreter."""
BIN = "Scripts" if os.name == "nt" else "bin"
SUFFIX = ".exe" if os.name == "nt" else ""


def script(stage: Stage) -> str:
    """The stage's entry point, relative to the repository."""
    return f"scripts/train_{stage}.py"


def config(stage: Stage) -> str:
    """The stage's configuration, relative to the repository."""
    return f"configs/{stage}.yaml"


def locate(
    directory: Path,
    *,
    python: Path | None = None,
    torchrun: Path | None = None,
    inference: Literal["own", "checkout"] = "own",
) -> CheckoutSpec:
    """Look a checkout over and find what runs it.

    Args:
        directory: The repository.
        python: Interpreter for its scripts; none takes its own environment's, else the one that runs this.
        torchrun: None takes the one beside the interpreter, else `python -m torch.distributed.run`.
        inference: Who runs the inference test.

    Raises:
        UsageError: It, a file that it needs or a program that was named is missing; says which.
    """
    if not directory.is_dir():
        raise UsageError(
            f"--checkout {directory}: no such directory. Give the root of a TinyWorlds repository"
        )
    needed = [TRAINING, *(path(stage) for stage in STAGES for path in (script, config))]
    if inference == "checkout":
        needed += [INFERENCE_SCRIPT, INFERENCE_CONFIG]
    missing = [name for name in needed if not (directory / name).is_file()]
    if missing:
        raise UsageError(
            f"--checkout {directory} is no TinyWorlds repository: it lacks {', '.join(missing)}. "
            "Give the repository's root"
        )
    root = directory.absolute()
    interpreter = _named(python, root, "--python-exec") or _own(root) or Path(sys.executable)
    beside = interpreter.with_name(f"torchrun{SUFFIX}")
    launcher = _named(torchrun, root, "--torchrun") or (beside if beside.is_file() else None)
    return CheckoutSpec(
        directory=str(root.resolve()),
        python=str(interpreter),
        torchrun=str(launcher) if launcher is not None else None,
        inference=inference,
    )


def _named(program: Path | None, root: Path, flag: str) -> Path | None:
    """A program that was named, relative to where we are or to the repository.

    Its link is not followed: an environment's interpreter is one, and knows its packages by where it lies.
    """
    if program is None:
        return None
    for place in (Path.cwd(), root):
        if (found := place / program).is_file() and os.access(found, os.X_OK):
            return found
    raise UsageError(f"{flag} {program}: there is no such program, neither here nor in {root}")


def _own(root: Path) -> Path | None:
    found = (root / name / BIN / f"python{SUFFIX}" for name in ENVIRONMENTS)
    return next((path for path in found if path.is_file()), None)
