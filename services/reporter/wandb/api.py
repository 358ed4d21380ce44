"""W&B's API: what it has of a run, in a file, or why it cannot be had. It is never waited for for ever."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from shared.bundle import replacing
from shared.home import expanded

KEY_FILES = (".netrc", "_netrc")
PLACES = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR")
ROOT = str(Path(__file__).parents[3])
"""Where `services` is, whatever directory this process works in."""
CURE = "set WANDB_API_KEY, or run 'wandb login'"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long W&B is waited for, in seconds."""

    request: int = 20
    """One request, as wandb counts it."""
    silence: float = 60.0
    """Nothing new came; wandb itself tries again for minutes."""
    total: float = 900.0
    """All runs of a report."""


LIMITS = Limits()
POLL_SEC = 0.1


def no_key(environ: Mapping[str, str] = os.environ) -> str | None:
    """Why W&B need not be asked: there is no key in the environment and no file that could hold one."""
    named = environ.get("NETRC")
    files = [expanded(named)] if named else [Path.home() / name for name in KEY_FILES]
    if any(environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return None
    return None if any(file.is_file() for file in files) else f"there is no API key: {CURE}"


def fetch(runs: Mapping[str, str], folder: Path, limits: Limits = LIMITS) -> None:
    """Write `<folder>/<id>.jsonl` of each run: its head and rows, or `{"problem"}`; see `fetch.py`.

    Args:
        runs: W&B's id -> `[entity/]project/id`.
        folder: Where to.
        limits: When W&B is given up.

    Raises:
        OSError: The disk refused.
    """
    with tempfile.TemporaryDirectory(prefix="worldloop-wandb-") as scratch:
        place = Path(scratch) / "runs"
        place.mkdir()
        problem = no_key() or _ask(runs, place, Path(scratch), limits)
        for run_id in runs:
            found = place / f"{run_id}.jsonl"
            if not found.is_file():
                found.write_text(json.dumps({"problem": problem}) + "\n", encoding="utf-8")
            with found.open("rb") as source, replacing(folder / found.name) as target:
                shutil.copyfileobj(source, target)


def problem_of(path: Path) -> str | None:
    """Why a run could not be had; none if its file holds it."""
    with path.open(encoding="utf-8") as stream:
        said: str | None = json.loads(stream.readline()).get("problem")
    return said


def _ask(runs: Mapping[str, str], place: Path, scratch: Path, limits: Limits) -> str:
    """Have a process of its own fetch the runs; says why it left files out, if it did."""
    said, asked = scratch / "said", scratch / "asked.json"
    asked.write_text(json.dumps({"folder": str(place), "timeout": limits.request, "runs": dict(runs)}))
    with (
        said.open("wb") as stream,
        subprocess.Popen(
            [sys.executable, "-m", "services.reporter.wandb.fetch", str(asked)],
            stdin=subprocess.PIPE,  # ends when this process does
            stdout=stream,
            stderr=stream,
            env=os.environ | _confined(scratch),
            start_new_session=True,
        ) as process,
    ):
        try:
            late = _wait(process, scratch, limits)
        finally:
            _end(process)
    if late is not None:
        return late
    last = " ".join(said.read_text(errors="replace").split())[-300:]
    return f"the process that asks W&B ended with exit code {process.returncode}: {_without_key(last)}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it and wandb's helper, so that neither writes to a place that is being removed."""
    helpers = []
    with contextlib.suppress(psutil.NoSuchProcess):
        helpers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for helper in helpers:
        with contextlib.suppress(psutil.NoSuchProcess):
            helper.kill()
    psutil.wait_procs(helpers, timeout=5)


def _wait(process: subprocess.Popen[bytes], scratch: Path, limits: Limits) -> str | None:
    """Wait until the process ends; says so if it is given up."""
    began = heard = time.monotonic()
    before = -1
    while process.poll() is None:
        now, size = time.monotonic(), _received(scratch)
        if size != before:
            heard, before = now, size
        if now - heard > limits.silence:
            return f"W&B was silent for {limits.silence:g} s"
        if now - began > limits.total:
            return f"W&B did not give all of it within {limits.total:g} s"
        time.sleep(POLL_SEC)
    return None


def _received(scratch: Path) -> int:
    """Bytes that came so far: rows, and what wandb downloads before it has any; its logs do not count."""
    total = 0
    for path in scratch.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.suffix != ".log" and path.is_file() else 0
    return total


def _confined(scratch: Path) -> dict[str, str]:
    """Places to write to: all of it goes when the process has ended. The key is found as wandb finds it."""
    places = {name: scratch / name.lower() for name in PLACES}
    for place in places.values():
        place.mkdir()
    return {name: str(place) for name, place in places.items()} | {
        "TMPDIR": str(scratch),
        "WANDB_MODE": "online",
        "WANDB_SILENT": "true",
        "WANDB_ERROR_REPORTING": "false",
        "PYTHONPATH": os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH")))),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _without_key(text: str) -> str:
    key = os.environ.get("WANDB_API_KEY")
    return text.replace(key, "***") if key else text
