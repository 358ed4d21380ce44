"""The processes under load: started, watched and ended."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from shared.bus.jetstream import JetStreamBus
from shared.events import Heartbeat, Service

ROOT = Path(__file__).parents[2]
MEGABYTE = 1 << 20
END_SEC = 60.0
"""Time to end after SIGTERM; then it is killed."""
READY_SEC = 600.0


class DiedError(Exception):
    """A process ended by itself."""


@dataclass
class Watched:
    """A process, and its memory over the time."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    ready_s: float = 0.0
    """From its start to its first heartbeat."""
    ended_s: float | None = None
    """From SIGTERM to its end; none if it had to be killed."""
    peak_mb: float = 0.0
    times: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Note its memory and the time it has used.

        Raises:
            DiedError: It has ended.
        """
        self.check()
        seen = psutil.Process(self.process.pid)
        used = seen.cpu_times()
        self.times.append(time.monotonic())
        self.megabytes.append(seen.memory_info().rss / MEGABYTE)
        self.cpu.append(used.user + used.system)
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii", errors="replace")
        self.peak_mb = next(
            int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")
        )

    def check(self) -> None:
        """See that it lives.

        Raises:
            DiedError: It has ended; with the end of its log.
        """
        if self.process.poll() is not None:
            tail = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise DiedError(f"{self.name} has ended with code {self.process.returncode}:\n{tail}")

    async def ready(self, bus: JetStreamBus, service: Service) -> None:
        """Wait for its first heartbeat.

        Raises:
            DiedError: It has ended, or none came.
        """
        began = time.monotonic()
        beats = bus.follow(("telemetry",), names=(Heartbeat.name,))
        async with contextlib.aclosing(beats) as messages:
            async for each in messages:
                self.check()
                beat = each.message
                if isinstance(beat, Heartbeat) and beat.service == service and beat.pid == self.process.pid:
                    self.ready_s = time.monotonic() - began
                    return
                if time.monotonic() - began > READY_SEC:
                    raise DiedError(f"{self.name} sends no heartbeat")
        raise AssertionError

    def at(self, sec: float) -> float:
        """Megabytes so many seconds after the first look, median of half a minute around it."""
        near = [
            mb for t, mb in zip(self.times, self.megabytes, strict=True) if abs(t - self.times[0] - sec) <= 15
        ]
        return statistics.median(near or self.megabytes[-1:])

    def figures(self) -> dict[str, float | None]:
        """What is told of it: see `Report`."""
        tenth, half = max(1, len(self.times) // 10), len(self.times) // 2
        slope = float(np.polyfit(self.times[half:], self.megabytes[half:], 1)[0]) if half else 0.0
        spent = max(self.times[-1] - self.times[0], 1e-9)
        return {
            "ready_s": round(self.ready_s, 1),
            "begin_mb": round(statistics.median(self.megabytes[:tenth]), 1),
            "end_mb": round(statistics.median(self.megabytes[-tenth:]), 1),
            "peak_mb": round(self.peak_mb, 1),
            "growth_mb_h": round(3600 * slope, 1),
            "cores": round((self.cpu[-1] - self.cpu[0]) / spent, 3),
            "ended_s": self.ended_s,
        }


@contextlib.contextmanager
def started(
    name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[Watched]:
    """A process for as long as the block runs; then it is told to end."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdout=output, stderr=output, start_new_session=True
        )
        watched = Watched(name, process, log)
        try:
            yield watched
        finally:
            began = time.monotonic()
            process.terminate()
            try:
                process.wait(timeout=END_SEC)
                watched.ended_s = round(time.monotonic() - began, 1)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
