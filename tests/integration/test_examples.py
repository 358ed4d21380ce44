"""The examples do what they say."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from shared.bus.jetstream import JetStreamBus
from shared.events import GateDecided

SCRIPT = Path(__file__).parents[2] / "examples" / "print_decisions.py"


def gate(attempt: int) -> GateDecided:
    return GateDecided(
        run_id="20260101_000000",
        stage="dynamics",
        attempt=attempt,
        gate_step=100 * attempt,
        target_step=1000,
        decision="continue",
        verdict="watch",
        reason="watch",
        reasons=[],
        metrics={},
        resume_from=None,
        resume_step=0,
        effective_batch=8,
        launcher_pid=None,
        dual_gpu_ok=None,
        evidence_paths=[],
        retries_used=0,
        retries_max=5,
        restarts_used=0,
    )


async def test_an_outsider_with_nats_py_alone_sees_past_and_coming_decisions(fresh_nats_server: Any) -> None:
    bus = await JetStreamBus.connect(fresh_nats_server.url, source="gatekeeper")
    await bus.publish(gate(1))
    outsider = await asyncio.create_subprocess_exec(
        sys.executable, "-I", SCRIPT, fresh_nats_server.url, stdout=asyncio.subprocess.PIPE
    )
    assert outsider.stdout is not None
    try:
        past = await asyncio.wait_for(outsider.stdout.readline(), 60)
        await bus.publish(gate(2))
        live = await asyncio.wait_for(outsider.stdout.readline(), 60)
    finally:
        outsider.terminate()
        await outsider.communicate()
    assert past.decode().split() == ["20260101_000000", "dynamics", "1", "100", "watch", "continue"]
    assert live.decode().split() == ["20260101_000000", "dynamics", "2", "200", "watch", "continue"]
    await bus.close()
