"""How long a gate keeps the GPUs waiting: warm workers beside a cold relaunch, and the decision alone.

    python benchmarks/gate_turnaround.py [--gates 1000] [--frames-file FILE]

Turnaround: the demo profile's model trains one stage in short chunks, once with warm workers and once with a
new process group for every chunk (`trainer.warm_workers=false`), by the real stack on this machine.
`warm_total_s` and `cold_s` reach from the end of a chunk's last update to the beginning of the next chunk's
first; `warm_s` leaves out the writing of the checkpoint and the picture. Medians over the gates.

Decision: a real gatekeeper process and a real nats-server with fsync on every write; from before the last
evidence is published until the next command has been received by the trainer's durable consumer.

Last line: one JSON object with warm_s, warm_total_s, cold_s, decision_p50_ms, decision_p99_ms.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from services import nats_server
from shared.bus.jetstream import JetStreamBus
from shared.bus.protocol import Consumer
from shared.events import ChunkCommand, StartRun
from tests.unit.gatekeeper.story import (
    HEALTHY,
    artifact_evidence,
    chunk_done,
    chunk_started,
    gpu_evidence,
    only,
)

ROOT = Path(__file__).parents[1]
PONG = ROOT / "tests" / "fixtures" / "pong_frames.h5"
RUN_ID = "20261121_000000"
CHUNK = 20


def main() -> None:
    """Measure, print the table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gates", type=int, default=1000, help="decisions to time")
    parser.add_argument("--frames-file", type=Path, default=PONG)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as directory:
        warm = turnarounds(Path(directory) / "warm", arguments.frames_file, gates=6)
        cold = turnarounds(
            Path(directory) / "cold", arguments.frames_file, "trainer.warm_workers=false", gates=3
        )
        latencies = asyncio.run(decisions(Path(directory) / "decisions", arguments.gates))
    centiles = statistics.quantiles(latencies, n=100)
    result = {
        "warm_s": statistics.median(total - writing for total, writing in warm),
        "warm_total_s": statistics.median(total for total, _ in warm),
        "cold_s": statistics.median(total for total, _ in cold),
        "decision_p50_ms": 1e3 * statistics.median(latencies),
        "decision_p99_ms": 1e3 * centiles[98],
    }
    print(f"{'figure':<18}{'value':>10}   over")
    for name, value in result.items():
        count = len(latencies) if name.startswith("decision") else len(cold if name == "cold_s" else warm)
        print(f"{name:<18}{value:>10.3f}   {count} gates")
    print(json.dumps(result))


# --- turnaround -------------------------------------------------------------------------------------------


def turnarounds(directory: Path, frames: Path, *overrides: str, gates: int) -> list[tuple[float, float]]:
    """Seconds between chunks, and how many of them went into writing checkpoint and picture; one per gate."""
    directory.mkdir()
    settings = {
        "n_updates": CHUNK * (gates + 1),
        "log_interval": CHUNK,
        "gatekeeper.chunk.video_tokenizer": CHUNK,
        "limits.video_tokenizer.continue_final_loss": 10,
        "limits.video_tokenizer.continue_late_over_mid": 10,
        "limits.video_tokenizer.watch_final_loss": 10,
    }
    command = [sys.executable, "-m", "services.cli", "train", "--profile", "demo", "--dataset", str(frames)]
    command += ["--only-stage", "video_tokenizer", *(f"{key}={value}" for key, value in settings.items())]
    environment = os.environ | {
        "WORLDLOOP_STATE_DIR": str(directory / "state"),
        "WORLDLOOP_CACHE_DIR": str(directory / "cache"),
        "WORLDLOOP_OUTPUT_ROOT": str(directory / "runs"),
    }
    done = subprocess.run(
        [*command, *overrides], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"the run did not complete\n{done.stdout}\n{done.stderr}")
    (events,) = directory.glob("runs/*/Logs/events.jsonl")
    chunks = [each["timing"] for each in of_type(events, "chunk_done")]
    return [
        (
            after["first_update_begin"] - before["last_update_end"],
            before["checkpoint"] + before["visualization"],
        )
        for before, after in itertools.pairwise(chunks)
    ]


def of_type(events: Path, name: str) -> list[dict[str, Any]]:
    """Data of the events of one name."""
    lines = [json.loads(line) for line in events.read_text().splitlines()]
    return [each["data"] for each in lines if each["type"] == f"worldloop.event.{name}"]


# --- decision ---------------------------------------------------------------------------------------------


async def decisions(directory: Path, gates: int) -> list[float]:
    """Seconds from the last evidence to the next command, one per gate; the others are played."""
    directory.mkdir()
    port = nats_server.free_port()
    url = f"nats://127.0.0.1:{port}"
    server = [str(nats_server.find()), "-c", str(nats_server.configure(directory, port))]
    environment = os.environ | {
        "WORLDLOOP_NATS_URL": url,
        "WORLDLOOP_STATE_DIR": str(directory / "state"),
        "WORLDLOOP_CACHE_DIR": str(directory / "cache"),
    }
    with (
        process(server, environment),
        process([sys.executable, "-m", "services.gatekeeper.main"], environment),
    ):
        trainer = await JetStreamBus.connect(url, source="trainer", wait_sec=30)
        monitor = await JetStreamBus.connect(url, source="monitor", wait_sec=30)
        target = 10 * (gates + 1)
        spec = only("video_tokenizer", config={"video_tokenizer": {"n_updates": target}})
        policy = {"chunk": {"video_tokenizer": 10}, "absolute_loss_from": 1.0}
        spec = spec.model_copy(update={"policy": {"gatekeeper": policy}})
        await trainer.publish(StartRun(run_id=RUN_ID, request_id="benchmark", spec=spec))
        latencies, steps, begun = [], {}, 0.0
        commands = trainer.subscribe(Consumer("trainer", "command"))
        async for delivery in commands:
            if begun:
                latencies.append(time.perf_counter() - begun)
            command = delivery.message()
            assert isinstance(command, ChunkCommand)
            await trainer.publish(chunk_started(command.plan, HEALTHY, RUN_ID))
            await delivery.ack()
            if len(latencies) == gates:
                break
            steps[command.plan.target_step] = True
            kept = dict(list(steps.items())[-5:])
            done = chunk_done(command.plan, HEALTHY, command.plan.target_step, kept, RUN_ID)
            await trainer.publish(done)
            await monitor.publish(gpu_evidence(command.plan, HEALTHY, RUN_ID))
            begun = time.perf_counter()
            await monitor.publish(artifact_evidence(command.plan, HEALTHY, RUN_ID))
        await trainer.close()
        await monitor.close()
    return latencies


@contextmanager
def process(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    """A process for as long as the block runs."""
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as running:
        try:
            yield
        finally:
            running.terminate()
            running.wait(timeout=20)


if __name__ == "__main__":
    main()
