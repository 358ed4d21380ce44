"""How fast `worldloop play` is: a real server, players over the WebSocket, as pages are.

    python benchmarks/play.py [RUN] [--dataset FILE] [--seconds 10]

RUN is what `worldloop play` takes. Without one, models of the demo profile's sizes with random weights are
played: as fast as trained ones, though not as nice to see.

Asked for its default rate, and for all it can give (60 frames per second), with one player and with several.
Frames per second are counted where they arrive. Times are medians, in ms per frame for all players together:
decoding steps of the dynamics, the tokenizer's decoder, PNG, handing to the socket.

Last line: one JSON object with model, fps, fps_asked, players, steps and ms of the first row,
and all rows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
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
from urllib.parse import urlsplit

import h5py
import numpy as np
from websockets.asyncio.client import connect

from services.commands.configuration.resolve import resolve
from services.inference.play.messages import unpack
from shared.bundle import Bundle
from shared.events import STAGES
from tests.untrained import save_untrained

ROOT = Path(__file__).parents[1]
DEFAULT_FPS, MOST_FPS = 10, 60
SETTLE_SEC = 2.0
"""Left out at the beginning: the decoding steps find their number."""
PARTS = ("tokenize", "dynamics", "pixels", "encode", "send")


def main() -> None:
    """Measure, print the table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?")
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--players", type=int, nargs="+", default=[1, 2, 4, 8])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if arguments.run is None:
            world, what = random_world(Path(directory)), "random weights, sizes of the demo profile"
        else:
            world = [arguments.run, *(("--dataset", str(arguments.dataset)) if arguments.dataset else ())]
            what = arguments.run
        print(f"{what}, {len(os.sched_getaffinity(0))} cores")
        print("asked players    fps steps", *(f"{part:>9}" for part in PARTS))
        found = []
        for fps in (DEFAULT_FPS, MOST_FPS):
            with server(world, fps, max(arguments.players)) as url:
                for players in arguments.players:
                    row = asyncio.run(measure(url, players, arguments.seconds))
                    found.append({"fps_asked": fps, **row})
                    times = [f"{row['ms'][part]:>9.2f}" for part in PARTS]
                    print(f"{fps:>5} {players:>7} {row['fps']:>6.1f} {row['steps']:>5}", *times, flush=True)
    print(json.dumps({"model": what, **found[0], "rows": found}))


async def measure(url: str, players: int, seconds: float) -> dict[str, Any]:
    """Frames per second that each player gets, and where the time went."""
    arrived = await asyncio.gather(*(play(url, seconds) for _ in range(players)))
    headers = [header for _, header in arrived[0]]
    rates = [(len(frames) - 1) / (frames[-1][0] - frames[0][0]) for frames in arrived]
    return {
        "players": players,
        "fps": round(min(rates), 2),
        "steps": round(statistics.median(header["steps"] for header in headers)),
        "ms": {part: round(statistics.median(header["ms"][part] for header in headers), 3) for part in PARTS},
    }


async def play(url: str, seconds: float) -> list[tuple[float, dict[str, Any]]]:
    """Play for a while, pressing something else ever so often: when frames arrived, and their headers."""
    host, token = urlsplit(url).netloc, urlsplit(url).fragment.removeprefix("token=")
    found = []
    async with connect(f"ws://{host}/play", origin=f"http://{host}") as socket:  # type: ignore[arg-type]
        await socket.recv()
        await socket.send(json.dumps({"type": "token", "token": token}))
        codes = len(json.loads(await socket.recv())["codes"])
        began = time.monotonic()
        while (now := time.monotonic()) - began < SETTLE_SEC + seconds:
            message = await socket.recv()
            assert isinstance(message, bytes)
            header, _ = unpack(message)
            if now - began >= SETTLE_SEC:
                found.append((now, header))
            if header["number"] % 5 == 0:
                await socket.send(json.dumps({"type": "press", "code": header["number"] // 5 % codes}))
    return found


@contextmanager
def server(world: list[str], fps: int, players: int) -> Iterator[str]:
    """A `worldloop play` process; its URL."""
    flags = ["--port", "0", "--fps", str(fps), "--players", str(players), "--json"]
    command = [sys.executable, "-m", "services.cli", "play", *world, *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        try:
            assert running.stdout is not None
            yield json.loads(running.stdout.readline())["url"]
        finally:
            running.terminate()
            running.wait(timeout=30)


def random_world(directory: Path) -> list[str]:
    """A run directory of untrained models and a recording of noise; what `worldloop play` takes."""
    config = resolve(ROOT / "configs", "demo").run
    size = config.training.frame_size
    recording = directory / "noise_frames.h5"
    with h5py.File(recording, "w") as file:
        file["frames"] = np.random.default_rng(0).integers(0, 256, (300, size, size, 3), np.uint8)
    bundle = Bundle(directory, "2026_01_01_00_00_00_noise")
    for stage in STAGES:
        stage_config = config.stage(stage).model_copy(update={"dataset": str(recording)})
        save_untrained(bundle.checkpoint(stage, 1), stage, stage_config)
    return [str(directory / "results" / bundle.run_name), "--dataset", str(recording)]


if __name__ == "__main__":
    main()
