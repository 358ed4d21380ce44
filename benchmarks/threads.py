"""How a rank's threads should wait for each other: update and decoding times by spin count, idle and busy.

    python benchmarks/threads.py [--threads 2] [--neighbours 0 1 2] [--updates 6]

Trains the tokenizer of `training.py`'s setting and decodes one frame, each in a process of its own, once per
way of waiting (GNU OpenMP's `GOMP_SPINCOUNT`), while so many neighbours keep
a core busy each. The ratios are to the trainer's own environment beside the same neighbours.

Last line: one JSON object, neighbours -> way -> ratio of the tokenizer's update, above 1 slower than ours.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.training import PONG, Process
from benchmarks.training_worker import Spec

WAYS: dict[str, Mapping[str, str]] = {
    "ours": {},
    "0 (asleep at once)": {"GOMP_SPINCOUNT": "0"},
    "3,000": {"GOMP_SPINCOUNT": "3000"},
    "10,000": {"GOMP_SPINCOUNT": "10000"},
    "30,000": {"GOMP_SPINCOUNT": "30000"},
    "300,000 (GNU OpenMP's own)": {"GOMP_SPINCOUNT": "300000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""What each changes in the environment of our ranks."""
BUSY = "while True: pass"


def main() -> None:
    """Measure, print the table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=6)
    arguments = parser.parse_args()
    ratios: dict[int, dict[str, float]] = {}
    print(f"{'neighbours':>10}  {'threads wait':<28}{'s per update':>14}{'s per frame':>14}")
    with tempfile.TemporaryDirectory() as scratch:
        for neighbours in arguments.neighbours:
            with busy(neighbours):
                seconds = {}
                for way, changes in WAYS.items():
                    seconds[way], frame = measure(changes, arguments.threads, arguments.updates, scratch)
                    print(f"{neighbours:>10}  {way:<28}{seconds[way]:>14.3f}{frame:>14.3f}", flush=True)
            ratios[neighbours] = {way: round(each / seconds["ours"], 3) for way, each in seconds.items()}
    print(json.dumps(ratios))


@contextlib.contextmanager
def busy(neighbours: int) -> Iterator[None]:
    """Other processes that never rest."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(neighbours)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(changes: Mapping[str, str], threads: int, updates: int, scratch: str) -> tuple[float, float]:
    """Median seconds of a tokenizer update, and of one decoded frame; the first of each does not count."""
    threads = int(changes.get("OMP_NUM_THREADS", threads))
    config = {"dynamics_masking": "tinyworlds"}

    def process(stage: str) -> Process:
        return Process(Spec("ours", stage, "cpu", threads, str(PONG), scratch, config), changes)

    with process("video_tokenizer") as training, process("decode") as decoding:
        training.ask("start", seed=0)
        told = training.ask("updates", first=0, number=updates, horizon=updates)
        frames = decoding.ask("decode", batch=1, number=updates)
    return statistics.median(told["seconds"][1:]), statistics.median(frames["seconds"][1:])


if __name__ == "__main__":
    main()
