"""A service whose only handler works in a thread for ever: `python tiny_busy_service.py FILE`."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

from shared import service
from shared.bus.protocol import Bus
from shared.events import EvaluateInference, Message
from shared.service import App
from shared.settings import Settings


async def work(message: EvaluateInference, deps: Any) -> list[Message]:
    Path(sys.argv[1]).touch()
    await asyncio.to_thread(threading.Event().wait)
    return []


async def bootstrap(bus: Bus, settings: Settings) -> App[Any]:
    return App("inference", None, {EvaluateInference: work})


service.THREADS_SEC = 0.5
service.run("inference", bootstrap)
