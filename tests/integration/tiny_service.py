"""A service that does nothing but live: `python tiny_service.py NAME`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, cast

from shared.bus.protocol import Bus
from shared.events import Service
from shared.service import App, run
from shared.settings import Settings


async def bootstrap(bus: Bus, settings: Settings) -> App[Any]:
    marks = {name: value for name, value in os.environ.items() if name.startswith(("WORLDLOOP_", "RUN_"))}
    Path("marks.json").write_text(json.dumps(marks))
    return App(cast("Service", sys.argv[1]), None, {})


run(cast("Service", sys.argv[1]), bootstrap)
