"""The inference script of a TinyWorlds checkout as a process: where it runs, how it is waited for and ended.

The script looks for its data and writes its pictures below the directory it is started in, so it is started
in a directory of links to the checkout. It bears a mark in its environment, as does all that it starts: by
that it is found and ended, also when the service that started it was killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from services.inference.config import Policy
from services.inference.world import Cancelled
from shared.bundle import Bundle
from shared.checkout import INFERENCE_CONFIG, INFERENCE_SCRIPT
from shared.errors import WorldloopError
from shared.events import CheckoutSpec

MARK = "WORLDLOOP_INFERENCE"
"""In the environment of the script: the directory of links, of which a bundle has one."""
WRITTEN = ("inference_results", "results", "wandb")
"""What a checkout's scripts write; not linked, so that they find nothing old there and change nothing."""
LOOK_SEC = 0.1
GRACE_SEC = 5.0
"""How long the script may take to end when it is told to."""
TAIL = 2000


@contextlib.contextmanager
def links(checkout: Path, place: Path) -> Iterator[Path]:
    """A directory that looks like the checkout and is written to in its stead; gone afterwards.

    What a killed service has left there is ended and removed first.
    """
    end(place)
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    try:
        for entry in checkout.iterdir():
            if entry.name not in WRITTEN:
                (place / entry.name).symlink_to(entry)
        for name in WRITTEN:
            (place / name).mkdir()
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def run(
    checkout: CheckoutSpec,
    arguments: list[str],
    place: Path,
    bundle: Bundle,
    log: Path,
    policy: Policy,
    cancelled: Callable[[], bool],
) -> tuple[int, str]:
    """Run the script to its end, and end whatever it has started.

    Args:
        checkout: Where the script is, and its interpreter.
        arguments: Its overrides.
        place: The directory of links.
        bundle: Of the run it is for.
        log: Where all that it prints goes.
        policy: How long it may take, and be silent.
        cancelled: Whether to give up, asked often.

    Returns:
        Its exit code, and what it printed.

    Raises:
        WorldloopError: It cannot be started, fell silent, or took too long.
        Cancelled: It was.
    """
    environment = os.environ | {
        MARK: str(place),
        "RUN_BUNDLE_ROOT": str(bundle.root.absolute()),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(place), os.environ.get("PYTHONPATH")))),
        "PYTHONUNBUFFERED": "1",  # silence means that nothing happens
        "PYTHONDONTWRITEBYTECODE": "1",
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": str(place / "results"),
        "NG_RUN_ROOT_DIR": str(place / "results"),
        "WANDB_DIR": str(place / "wandb"),
        "GOMP_SPINCOUNT": "1000",
    }
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        try:
            process = subprocess.Popen(
                [checkout.python, INFERENCE_SCRIPT, "--config", INFERENCE_CONFIG, "--", *arguments],
                cwd=place,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise WorldloopError(f"{checkout.python} cannot be started: {error}") from None
    try:
        code = _wait(process, log, policy, cancelled)
    finally:
        end(place)
        with contextlib.suppress(subprocess.TimeoutExpired):  # the kernel may hold it
            process.wait(timeout=LOOK_SEC)
    return code, _printed(log)


def end(place: Path) -> None:
    """End all processes that bear the mark of a place: asked first, killed after the grace period."""
    for send in (psutil.Process.terminate, psutil.Process.kill):
        found = [process for process in psutil.process_iter() if _is_of(process, place)]
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                send(process)
        psutil.wait_procs(found, timeout=GRACE_SEC)


def last_line(output: str) -> str:
    """Of what was printed."""
    lines = output[-TAIL:].strip().splitlines()
    return lines[-1].strip() if lines else "nothing"


def _is_of(process: psutil.Process, place: Path) -> bool:
    try:
        return bool(process.environ().get(MARK) == str(place))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _wait(process: subprocess.Popen[bytes], log: Path, policy: Policy, cancelled: Callable[[], bool]) -> int:
    """The exit code."""
    began = heard = time.monotonic()
    size = 0
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=LOOK_SEC)
        if cancelled():
            raise Cancelled
        now, written = time.monotonic(), log.stat().st_size
        if written != size:
            heard, size = now, written
        if now - heard > policy.checkout_silence_sec:
            raise _given_up(log, "said nothing for", "checkout_silence_sec", policy.checkout_silence_sec)
        if now - began > policy.checkout_timeout_sec:
            raise _given_up(log, "was not done after", "checkout_timeout_sec", policy.checkout_timeout_sec)


def _given_up(log: Path, why: str, key: str, limit: float) -> WorldloopError:
    return WorldloopError(
        f"{INFERENCE_SCRIPT} {why} {limit:g} s (inference.{key}) and was ended; "
        f"its last line: {last_line(_printed(log))}"
    )


def _printed(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")
