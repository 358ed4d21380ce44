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
WARM_UP, RUNS, LOOKS = 15, 45, 8
TIMERS = ("TimerHandle", "Context", "hamt", "hamt_bitmap_node")
"""A timer of asyncio that was cancelled stays with its context until it would have been due."""


async def test_runs_that_are_over_leave_no_objects_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "MOST_ENDED", FEW)
    monkeypatch.setattr(listing, "MOST_ROWS", FEW)
    for module in (chunks, handlers, service):
        monkeypatch.setattr(module, "MOST_RUNS", FEW)
    monkeypatch.setattr(logs._files, "runs", Recent(FEW))
    counts = []
    gc.freeze()  # what other tests left is neither looked at nor counted
    try:
        async with contextlib.aclosing(played(tmp_path, RUNS, readings=30)) as over:
            async for _ in over:
                gc.collect()
                counts.append(sum(type(each).__name__ not in TIMERS for each in gc.get_objects()))
    finally:
        gc.unfreeze()
    # the fewest of a few looks: at some a message is being worked on
    before, after = min(counts[WARM_UP - LOOKS : WARM_UP]), min(counts[-LOOKS:])
    assert after - before < RUNS - WARM_UP, "more than one object a run"
