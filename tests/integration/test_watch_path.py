"""`worldloop watch --path` beside a training process that worldloop did not start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).parents[2]
NAME = "2026_01_01_00_00_00_pong"
GOLDEN = REPO / "tests/fixtures/golden/tinyworlds_run/results/2026_11_20_20_30_00_pong/dynamics/checkpoints"
SILENT_SEC = 200


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A working directory whose policy has the same limit for all channels."""
    shutil.copytree(REPO / "configs", tmp_path / "configs")
    file = tmp_path / "configs" / "policy.yaml"
    policy = yaml.safe_load(file.read_text())
    limits = dict.fromkeys(("history", "checkpoint", "visualization"), SILENT_SEC)
    policy.setdefault("monitor", {})["silence_sec"] = limits
    file.write_text(yaml.safe_dump(policy))
    return tmp_path


@pytest.fixture
def start(here: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes of Python in the working directory; all are ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def python(*words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *(str(word) for word in words)],
            cwd=here,
            env={**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield python
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def until(watcher: subprocess.Popen[str], wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first look of a watcher that is as wanted."""
    assert watcher.stdout is not None
    for line in watcher.stdout:
        seen: dict[str, Any] = json.loads(line)
        if wanted(seen):
            return seen
    raise AssertionError("the watcher ended")


def age(place: Path, seconds: float) -> None:
    """Make all that was written in a place so much older."""
    for path in place.rglob("*"):
        about = path.stat()
        os.utime(path, (about.st_atime, about.st_mtime - seconds))


def test_a_foreign_run_is_seen_live_and_its_silence_is_an_alert_when_it_stops(
    here: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    trainer = start("-m", "tests.integration.foreign_trainer", here, NAME, next(GOLDEN.iterdir()))
    run = here / "results" / NAME
    while not list(run.glob("dynamics/visualizations/*.png")):
        assert trainer.poll() is None
        time.sleep(0.05)
    watch = ["watch", "--path", f"results/{NAME}", "--json", "--every", "0.2s"]
    watcher = start("-m", "services.cli", *watch)
    first = until(watcher, lambda seen: not seen["alerts"] and seen["stages"][0]["checkpoint"]["valid"])
    step = first["stages"][0]["step"]

    def gone_on(seen: dict[str, Any]) -> bool:
        last = seen["stages"][0]["checkpoint"]
        return bool(last["valid"] and last["step"] > step and not seen["alerts"])

    (dynamics,) = until(watcher, gone_on)["stages"]
    assert (dynamics["activity"], dynamics["target"], dynamics["sheet_ok"]) == ("running", 10**6, True)
    assert dynamics["updates_per_sec"] == pytest.approx(20)
    assert dynamics["loss"] < first["stages"][0]["loss"]
    assert dynamics["checkpoint"]["contents"]
    trainer.terminate()
    trainer.wait()
    age(here / "results", 2 * SILENT_SEC)
    age(here / "wandb", 2 * SILENT_SEC)
    last = until(watcher, lambda seen: len(seen["alerts"]) == 3)
    assert last["alerts"]["dynamics/history"].startswith("history: silent for ")
    assert list(last["alerts"]) == ["dynamics/history", "dynamics/checkpoint", "dynamics/visualization"]
    watcher.send_signal(signal.SIGINT)
    assert watcher.wait() == 1
    assert "ALERT history: silent for" in (here / "Logs" / "monitor_latest.info").read_text()
    (log,) = (here / "Logs").glob("monitor_2*.log")
    assert "NEW ALERT history: silent for" in log.read_text()
