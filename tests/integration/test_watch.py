"""`worldloop watch` on a terminal, beside a real server on which a run goes on."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.bundle import Bundle
from shared.bus.jetstream import JetStreamBus
from shared.events import Heartbeat, Message, RunFinished
from tests.messages import progress
from tests.unit.reporter.conftest import NAME, RUN, Log

WIDTH, HEIGHT = 80, 24
CODES = re.compile(r"\x1b\[(\d+);1H|\x1b\[\?1049([hl])|\x1b\[[0-9;?]*[A-Za-z]|([^\x1b]+)")


class Terminal:
    """A terminal of 80 x 24 with a command in it, and what it shows on the other screen."""

    def __init__(self, *words: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        environment = {**os.environ, "TERM": "xterm", "OMP_NUM_THREADS": "1"}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.cli", *words],
            stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        os.close(slave)
        self.written = ""

    async def until(self, wanted: Callable[[], bool]) -> None:
        """Read what is written until it is as wanted."""
        while not wanted():
            try:
                read = await asyncio.to_thread(os.read, self.master, 65536)
            except OSError:  # the command has ended
                await asyncio.to_thread(self.process.wait)
                assert wanted(), self.written[-3000:]
            else:
                self.written += read.decode(errors="replace")

    @property
    def screen(self) -> list[str]:
        """The rows of the other screen, as last drawn."""
        rows, row = [""] * HEIGHT, 0
        for place, switch, text in CODES.findall(self.written):
            if switch == "l":
                break
            if place:
                row = int(place) - 1
                rows[row] = ""
            else:
                rows[row] += text
        return rows

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def shows(terminal: Terminal, *parts: str) -> Callable[[], bool]:
    return lambda: all(part in "\n".join(terminal.screen) for part in parts)


async def test_a_run_is_watched_live_to_its_end_over_a_terminal(
    fresh_nats_server: Any, tmp_path: Path
) -> None:
    bus = await JetStreamBus.connect(fresh_nats_server.url)
    bundle = Bundle(tmp_path / RUN, NAME)
    log = Log(bundle)
    log.begin(stages=("video_tokenizer", "dynamics"), inference=False).chunk(
        1, 0, 300, stage="video_tokenizer"
    )
    log.chunk(2, 300, 600, stage="video_tokenizer")
    messages = [record.message for record in log.records]

    async def publish(*told: Message) -> None:
        for message in told:
            await bus.publish(message)

    update = progress(
        RUN, stage="video_tokenizer", attempt=2, step=417, target_step=600, stage_target=900, loss=0.0421,
        eta_sec=3700.0,
    )  # fmt: skip
    beat = Heartbeat(run_id="idle", service="monitor", pid=1, host="\x1b[2Jh", working_on=[])
    await publish(*messages[:2])
    terminal = Terminal("watch", RUN, "--nats-url", fresh_nats_server.url, "--output-root", str(tmp_path))
    try:
        await terminal.until(shows(terminal, "running", "updates 0 to 300"))
        await publish(*messages[2:5])
        await terminal.until(
            shows(terminal, "updates 300 to 600", "gate  video_tokenizer at 300", "loss  video")
        )
        before = len(terminal.written)
        waiting = asyncio.create_task(terminal.until(shows(terminal, "417/", "loss 0.0421", "1 of 5 heard")))
        while not waiting.done():
            await publish(update, beat)
            await asyncio.sleep(0.1)
        await waiting
        assert len(terminal.written) - before < WIDTH * HEIGHT  # far less than all of it, again and again
        await publish(
            *messages[5:], RunFinished(run_id=RUN, status="stage_completed", degraded=False, reason="done")
        )
        await terminal.until(lambda: terminal.process.poll() is not None)
    finally:
        terminal.end()
        await bus.close()
    assert terminal.process.returncode == 0
    final = terminal.written[terminal.written.rindex("\x1b[?1049l") :]
    assert "Ended: stage_completed (done)" in final
    assert terminal.written.count("\x1b[?1049h") == 1
