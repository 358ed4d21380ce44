"""What the services keep of runs that are over: nothing that grows with their number.

The long form, with ten thousand runs: `python -m tests.fuzz.endurance`.
"""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path

import pytest

from services.gatekeeper import keeper
from services.monitor.core import chunks
from services.reporter import handlers
from services.reporter.core.page import listing
from shared import logs, service
from shared.recent import Recent
from tests.fuzz.endurance import played

FEW = 4
WARM_UP, RUNS = 15, 45


async def test_runs_that_are_over_leave_no_objects_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "MOST_ENDED", FEW)
    monkeypatch.setattr(listing, "MOST_ROWS", FEW)
    for module in (chunks, handlers, service):
        monkeypatch.setattr(module, "MOST_RUNS", FEW)
    monkeypatch.setattr(logs._files, "runs", Recent(FEW))
    counts = []
    async with contextlib.aclosing(played(tmp_path, RUNS, readings=30)) as over:
        async for number in over:
            if number in (WARM_UP, RUNS):
                gc.collect()
                counts.append(len(gc.get_objects()))
    before, after = counts
    assert after - before < RUNS - WARM_UP, "more than one object a run"
