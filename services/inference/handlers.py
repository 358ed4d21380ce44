"""What the inference service does with each command."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from shared.bus.protocol import Bus
from shared.events import EvaluateInference, InferenceDone, Message
from shared.service import Handler, Runs


@dataclass(frozen=True, slots=True)
class Deps:
    """What the handlers need."""

    bus: Bus
    runs: Runs
    cache_dir: Path
    """Where compressed recordings are unpacked."""
    now: Callable[[], datetime]
    data_dir: Path | None = None
    """Where this process finds recordings; none: under the path that the run names."""


async def evaluate_inference(command: EvaluateInference, deps: Deps) -> list[Message]:
    """Run the standard test, once per try and sending."""
    if await _answered(command, deps.bus):
        return []
    spec, bundle = await deps.runs.spec(command.run_id), await deps.runs.bundle(command.run_id)
    given_up = threading.Event()

    def work() -> InferenceDone:
        from services.inference.trial import run_trial  # torch is first imported here, beside the loop

        return run_trial(
            command,
            spec,
            bundle,
            cache_dir=deps.cache_dir,
            data_dir=deps.data_dir,
            now=deps.now(),
            cancelled=given_up.is_set,
        )

    try:
        return [await asyncio.to_thread(work)]
    finally:
        given_up.set()  # when the service ends, its thread does too, soon


async def _answered(command: EvaluateInference, bus: Bus) -> bool:
    events = await bus.events(command.run_id)
    return any(
        isinstance(event.message, InferenceDone)
        and (event.message.inference_try, event.message.retry) == (command.inference_try, command.retry)
        for event in events
    )


HANDLERS: Mapping[type[Message], Handler[Any, Deps]] = {EvaluateInference: evaluate_inference}
"""Command -> handler."""
