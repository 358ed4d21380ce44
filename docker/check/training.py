"""The demo from the host to `passed`, while everything is killed once, and its bundle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from docker.check.stack import SERVICES, Stack, hold, saw, wait_for

INTO_THE_CHUNK_SEC = 6.0
"""From a gate to the kill after it, so that the next chunk is being trained."""


def train(stack: Stack, dataset: Path, words: Sequence[str]) -> str:
    """Train, and kill one after the other, each after one more gate; the run's id."""
    stack.compose("cp", str(dataset), "trainer:/data/")
    log = stack.scratch / "train.log"
    with log.open("w") as stream:
        asked = ("train", "--profile", "demo", "--dataset", str(dataset), *words)
        training = stack.worldloop(*asked, stdout=stream, stderr=subprocess.STDOUT)
    victims = list(SERVICES)
    try:
        while training.poll() is None:
            gates = log.read_text().count("  gate ")
            if victims and gates > len(SERVICES) - len(victims):
                time.sleep(INTO_THE_CHUNK_SEC)
                _kill(stack, victims.pop(0))
            time.sleep(0.5)
    finally:
        training.kill()
        training.wait()
        text = log.read_text()
        print(text, flush=True)
    hold(training.returncode == 0 and "finished: passed" in text, "the run has not passed")
    hold(not victims, f"the run was over before {victims} could be killed")
    return text.partition("run ")[2].partition(",")[0]


def _kill(stack: Stack, service: str) -> None:
    """End a service's process by its pid on this host, and wait until its container is healthy again."""
    before, process = stack.inspect(service)["RestartCount"], stack.pid(service)
    os.kill(process, signal.SIGKILL)
    began = time.monotonic()

    def runs_again() -> bool:
        now = stack.inspect(service)
        return bool(now["RestartCount"] > before and now["State"]["Running"])

    wait_for(runs_again, f"{service} was not started again")
    started = time.monotonic() - began
    stack.wait_for_health(service, "healthy")
    healthy = time.monotonic() - began
    saw(f"kill -9 {process} ({service}): started again after {started:.1f} s, healthy after {healthy:.0f} s")


def bundle(stack: Stack, run_id: str) -> None:
    """One decision a gate; and the bundle, copied out, decides the same again."""
    code, text = stack.ask("events", run_id, "--json")
    hold(code == 0, text)
    events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    gates = [event["data"] for event in events if event["type"].endswith(".gate_decided")]
    decided = [(gate["stage"], gate["attempt"], gate.get("inference_try")) for gate in gates]
    saw(f"{len(gates)} gates: {', '.join(gate['decision'] for gate in gates)}")
    hold(len(set(decided)) == len(decided), "a gate was decided twice")
    stack.compose("cp", f"reporter:/runs/{run_id}", str(stack.scratch / run_id))
    code, text = stack.ask("replay", str(stack.scratch / run_id))
    saw(f"replay of the bundle, copied out of its volume: exit code {code}")
    hold(code == 0, text)
