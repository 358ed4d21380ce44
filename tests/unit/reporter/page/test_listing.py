"""The list of runs: a fold over the few events that tell where each one is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.reporter.core.page import listing
from services.reporter.core.page.listing import Listing
from shared.bus.protocol import Recorded
from shared.events import Event, RunFinished, RunResumed, RunStarted
from tests.unit.gatekeeper.story import run_spec


def test_of_runs_that_are_over_the_oldest_are_left_out_until_they_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listing, "MOST_ROWS", 3)
    rows, sequence = Listing(), 0

    def take(event: Event) -> None:
        nonlocal sequence
        sequence += 1
        rows.take(Recorded(sequence, datetime.fromtimestamp(sequence, UTC), "/worldloop/gatekeeper", event))

    ids = [f"20260101_000000_{number}" for number in range(1, 6)]
    take(RunStarted(run_id=ids[0], spec=run_spec()))  # goes on all the time
    for run_id in ids[1:]:
        take(RunStarted(run_id=run_id, spec=run_spec()))
        take(RunFinished(run_id=run_id, status="failed", degraded=False, reason="", ordinal=1))
    assert [row.run_id for row in rows.rows] == [ids[4], ids[3], ids[0]]
    take(RunResumed(run_id=ids[1], by="operator", reason="", ordinal=1))
    (resumed,) = (row for row in rows.rows if row.run_id == ids[1])
    assert resumed.status == "running"
