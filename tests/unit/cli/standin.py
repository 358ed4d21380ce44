"""A stand-in TinyWorlds checkout for the command line, with programs that answer without torch."""

from __future__ import annotations

from pathlib import Path

from tests.standins import checkouts


def program(path: Path, *, prints: str = "", fails: str = "") -> Path:
    """A program that prints a line and is done, or complains and fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    says = f"echo '{fails}' >&2\nexit 1\n" if fails else f"echo '{prints}'\n"
    path.write_text(f"#!/bin/sh\n{says}")
    path.chmod(0o755)
    return path


def checkout(root: Path, *, gpus: int = 0, way: checkouts.Way = "absolute") -> Path:
    """A checkout whose own interpreter has a torch that sees some GPUs."""
    checkouts.build(root, way)
    program(root / ".venv" / "bin" / "python", prints=str(gpus))
    program(root / ".venv" / "bin" / "torchrun", prints="usage: torchrun")
    return root
