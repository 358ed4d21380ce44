"""Where the time of a run went whose times are known."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.reporter.core.page.fold import fold_all
from shared.bundle import Bundle
from tests.e2e.big_run import NAME, RUN, records


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
