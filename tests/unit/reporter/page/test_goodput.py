"""Where the time of a run went whose times are known."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.reporter.core.page.fold import fold_all
from shared.bundle import Bundle
from shared.bus.protocol import Recorded
from shared.events import RunPaused, RunResumed
from tests.e2e.big_run import NAME, RUN, records
from tests.messages import progress


def test_updates_that_were_rolled_back_are_redone_and_the_rest_is_named(tmp_path: Path) -> None:
    told = records(Bundle(tmp_path / RUN, NAME), gates=3, chunk=100)
    goodput = fold_all(RUN, told).page(told[-1].time.timestamp()).goodput
    spent = {each.name: each.seconds for each in goodput.spent}
    assert spent["training"] == pytest.approx(57 * 2.5)  # the third chunk's second half was rolled back
    assert spent["redone"] == pytest.approx(57 * 0.5)
    assert spent["checkpoint"] == pytest.approx(3 * 2)
    assert spent["starting"] == pytest.approx(3 * 1, abs=0.1)
    assert goodput.fraction == pytest.approx(spent["training"] / sum(spent.values()))


def test_a_launch_that_died_keeps_what_the_next_went_on_from(tmp_path: Path) -> None:
    told = records(Bundle(tmp_path / RUN, NAME), gates=1, chunk=100)
    first = told[2]
    again = first.message.model_copy(update={"launch": 2, "resume_step": 50})
    died = replace(first, time=first.time - timedelta(seconds=40))
    before = [replace(each, time=each.time - timedelta(seconds=100)) for each in told[:2]]
    goodput = fold_all(RUN, [*before, died, replace(first, message=again), *told[3:]]).page(0.0).goodput
    spent = {each.name: each.seconds for each in goodput.spent}
    assert spent["training"] == pytest.approx(57 + 40)  # 50 updates took the second launch 57 s
    assert spent["redone"] == 0


def test_a_chunk_is_starting_until_its_first_update_and_training_from_then_on(tmp_path: Path) -> None:
    told = records(Bundle(tmp_path / RUN, NAME), gates=2, chunk=100)
    fold = fold_all(RUN, told[:8])  # up to the second chunk's start
    begun = told[7].time.timestamp()

    def spent(now: float) -> dict[str, float]:
        return {each.name: each.seconds for each in fold.page(now).goodput.spent}

    before = spent(begun)
    assert before["starting"] == pytest.approx(1 + 0.03, abs=0.011)  # both starts
    waited = spent(begun + 7)
    assert waited["starting"] - before["starting"] == pytest.approx(7)
    assert waited["training"] == before["training"]
    update = progress(RUN, attempt=2, step=101, target_step=200, stage_target=300)
    fold.take(Recorded(0, told[7].time + timedelta(seconds=7), "test", update))
    trained = spent(begun + 20)
    assert trained["starting"] == pytest.approx(waited["starting"])
    assert trained["training"] - before["training"] == pytest.approx(13)


def test_a_pause_and_the_time_until_a_resume_are_no_waiting(tmp_path: Path) -> None:
    told = records(Bundle(tmp_path / RUN, NAME), gates=1, chunk=100)
    end = told[-1].time
    events = (
        RunPaused(run_id=RUN, by="operator", reason="lunch"),
        RunResumed(run_id=RUN, by="operator", reason="back"),
    )
    after = [
        Recorded(len(told) + 1 + place, end + timedelta(seconds=10 + 100 * place), "test", event)
        for place, event in enumerate(events)
    ]
    goodput = fold_all(RUN, [*told, *after]).page(end.timestamp() + 115).goodput
    spent = {each.name: each.seconds for each in goodput.spent}
    assert spent["paused"] == pytest.approx(100)
    assert spent["waiting"] == 0
    assert spent["starting"] == pytest.approx(1.02 + 10 + 5, abs=0.05)
