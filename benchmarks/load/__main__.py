"""The services under load: 200 runs at once, a day of their events in the stream, 1,000 readings a second.

    python -m benchmarks.load [--minutes 6] [--runs 200] [--hours 24] [--readings 1000] [--outsiders 50]

A nats-server with fsync on every write gets `hours` of events of `runs` runs, each with a gate every twenty
minutes, as if the services had handled them. Then gatekeeper, monitor, reporter, inference and a trainer
start (the trainer is a second host's: the script is the first's). Then all at once, for so many minutes:
every run but one goes on as recorded, with a gate every minute; the one that is left has its gates decided by
the gatekeeper, one a second at most, while the script plays its trainer and monitor; readings come, and that
many outside programs subscribe to everything. What is measured: the time from the last evidence of a gate to
the next command, and the memory of each process every five seconds. In the end
each message is accounted for.

Progress goes to standard error, the table to standard output. Last line: one JSON object, see `Report`.
Exit code 1: a message was lost, a gate decided twice or not, or a process died.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.load.accounts import audit, handled
from benchmarks.load.players import LIVE, Trainer, crowd, readings
from benchmarks.load.probes import DiedError, Watched, started
from benchmarks.load.report import Report, told
from benchmarks.load.tape import GATE_SEC, Tape, play_on, preload
from services import nats_server
from shared.bus.jetstream import JetStreamBus
from shared.events import Service
from tests.unit.gatekeeper.story import RUN_ID

SERVICES: tuple[Service, ...] = ("gatekeeper", "monitor", "reporter", "inference", "trainer")
GATES_PER_HOUR = 3
"""In the past that is stored before."""
LOOK_SEC = 5.0
LAST_SEC = 30.0
"""For the last gate, after the time is over."""


def main() -> int:
    """Measure, print the table, then the JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=6.0, help="of load")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--hours", type=float, default=24.0, help="of events in the stream before")
    parser.add_argument("--readings", type=int, default=1000, help="telemetry messages a second")
    parser.add_argument("--outsiders", type=int, default=50, help="programs that subscribe to everything")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no process of ours is left
    try:
        with tempfile.TemporaryDirectory(prefix="worldloop-load-", ignore_cleanup_errors=True) as directory:
            report = asyncio.run(measure(Path(directory), arguments))
    except DiedError as error:
        say(str(error))
        print(json.dumps({"died": str(error).partition(" ")[0]}))
        return 1
    for line in report.table():
        print(line)
    print(json.dumps(report.document()))
    return 0 if report.good else 1


def say(line: str) -> None:
    """Tell where it is."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


async def measure(directory: Path, arguments: argparse.Namespace) -> Report:
    """The whole benchmark.

    Raises:
        DiedError: A process ended by itself.
    """
    port = nats_server.free_port()
    url = f"nats://127.0.0.1:{port}"
    environment = os.environ | {
        "WORLDLOOP_NATS_URL": url,
        "WORLDLOOP_STATE_DIR": str(directory / "state"),
        "WORLDLOOP_CACHE_DIR": str(directory / "cache"),
        "WORLDLOOP_PAGE_PORT": "0",
        "WORLDLOOP_NODE_RANK": "1",
        "WORLDLOOP_LOG_LEVEL": "warning",
    }
    server = [str(nats_server.find()), "-c", str(nats_server.configure(directory, port))]
    runs = [f"{RUN_ID}_{number}" for number in range(1, arguments.runs)]
    past = int(arguments.hours * GATES_PER_HOUR)
    tape = Tape.recorded(directory / "runs", past + int(arguments.minutes * 60 / GATE_SEC) + 2)
    trainer = Trainer()
    with started("nats-server", server, nats_server.environment(environment), directory / "nats.log") as nats:
        bus = await JetStreamBus.connect(url, source="gatekeeper", wait_sec=30)
        began = time.monotonic()
        await trainer.ask(bus, tape.bundles / LIVE)
        stored = await preload(url, tape, runs, past)
        await handled(url)
        say(f"{stored} events stored in {time.monotonic() - began:.0f} s")
        with contextlib.ExitStack() as stack:
            watched = [nats]
            for name in SERVICES:
                command = [sys.executable, "-m", f"services.{name}.main"]
                watched.append(
                    stack.enter_context(started(name, command, environment, directory / f"{name}.log"))
                )
                await watched[-1].ready(bus, name)
                say(f"{name} is ready after {watched[-1].ready_s:.1f} s")
            heard = stack.enter_context(crowd(port, arguments.outsiders))
            sent = stack.enter_context(readings(url, runs, arguments.readings))
            seconds, until = 60 * arguments.minutes, time.monotonic() + 60 * arguments.minutes
            deciding = asyncio.create_task(trainer.play(url, until))
            playing = asyncio.create_task(play_on(url, tape, runs, past, until))
            await look(watched, trainer, until, seconds)
            played = await playing
            with contextlib.suppress(TimeoutError):  # a gate that is never decided shows in the accounts
                await asyncio.wait_for(deciding, LAST_SEC)
            rates = {
                "sent_per_s": sent.value / seconds,
                "heard_per_s": heard.value / seconds / max(arguments.outsiders, 1),
            }
            say("the time is over; accounting for every message")
            gates = {
                run: past + count
                for place, run in enumerate(runs)
                if (count := played // len(runs) + (place < played % len(runs)))
            }
            counts = await audit(bus, url, tape, gates, trainer)
        await bus.close()
    return Report(seconds, watched, trainer.latencies, rates, counts)


async def look(watched: list[Watched], trainer: Trainer, until: float, seconds: float) -> None:
    """Note memory until the time is over, and tell it now and then.

    Raises:
        DiedError: A process has ended.
    """
    began, tell = time.monotonic(), iter(told(seconds)[1:])
    due = next(tell)
    while (now := time.monotonic()) < until:
        for each in watched:
            each.look()
        if now - began >= due:
            memory = ", ".join(f"{each.name} {each.megabytes[-1]:.0f} MB" for each in watched)
            say(f"{due / 60:.1f} min: {memory}; {len(trainer.latencies)} gates")
            due = next(tell, seconds)
        await asyncio.sleep(LOOK_SEC)


if __name__ == "__main__":
    sys.exit(main())
