"""Stands for every test here; none may leave a process behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.bus.memory import MemoryBus
from shared.bus.protocol import Bus
from shared.events import CheckoutSpec
from tests.integration.stand import Stand, Stands, marked


@pytest.fixture
async def stands(tmp_path: Path) -> AsyncIterator[Stands]:
    made: list[Stand] = []

    async def make(
        name: str = "a", *, bus: Bus | None = None, checkout: CheckoutSpec | None = None, **policy: Any
    ) -> Stand:
        bus = MemoryBus() if bus is None else bus
        made.append(Stand(tmp_path / name, policy, bus, checkout=checkout))
        await made[-1].begin()
        return made[-1]

    yield make
    for stand in made:
        await stand.end()
    assert not [process for process in psutil.process_iter() if marked(process, tmp_path)]
    assert not list(tmp_path.glob("*/state/tmp/*"))
