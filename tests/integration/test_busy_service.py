"""A service that is told to end while it works in a thread, which nobody can cancel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from shared.bus.jetstream import JetStreamBus
from shared.bus.protocol import Consumer
from shared.events import EvaluateInference
from shared.service import ACK_WAIT_SEC

BUSY = Path(__file__).with_name("tiny_busy_service.py")


async def test_it_ends_soon_and_what_it_worked_on_comes_again(fresh_nats_server: Any, tmp_path: Path) -> None:
    asked = EvaluateInference(run_id="20260101_000000", inference_try=1, checkpoints={}, settings={})
    bus = await JetStreamBus.connect(fresh_nats_server.url, source="gatekeeper", wait_sec=30)
    await bus.publish(asked)
    assert await asyncio.to_thread(code_of_end, fresh_nats_server.url, tmp_path) == 0
    consumer = Consumer("inference", "command", ack_wait_sec=ACK_WAIT_SEC)
    async with contextlib.aclosing(bus.subscribe(consumer)) as deliveries:
        again = await anext(deliveries)
        assert (again.message(), again.deliveries) == (asked, 2)
        await again.ack()
    await bus.close()


def code_of_end(url: str, directory: Path) -> int:
    """Tell the service to end once it is at work."""
    at_work = directory / "at_work"
    environment = os.environ | {
        "WORLDLOOP_NATS_URL": url,
        "WORLDLOOP_STATE_DIR": str(directory / "state"),
        "PYTHONPATH": str(BUSY.parents[2]),
    }
    service = subprocess.Popen([sys.executable, str(BUSY), str(at_work)], cwd=directory, env=environment)
    try:
        until = time.monotonic() + 60
        while not at_work.exists():
            assert service.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        service.terminate()
        return service.wait(timeout=60)
    finally:
        service.kill()
        service.wait()
