"""Columns and figures of a history."""

from __future__ import annotations

import numpy as np
import pytest

from services.reporter.core.wandb.figures import (
    figures,
    outline,
    rolling_mean,
    thinned,
    updates_per_second,
    window,
)
from services.reporter.core.wandb.table import CODEBOOK_USAGE, LOSS, SECONDS, Collector, Table


def collected(rows: list[dict[str, object]]) -> Table:
    collector = Collector()
    for row in rows:
        collector.add(row)
    return collector.table


def test_figures_are_over_the_rows_that_have_a_finite_value() -> None:
    losses: list[object] = ["NaN", *range(20, 0, -1), "Infinity", 10**400, None]
    table = collected([{"_step": step, LOSS: loss} for step, loss in enumerate(losses)])
    found = figures(table, LOSS)
    assert found is not None
    assert (found.rows, found.first_step, found.last_step) == (20, 1, 20)
    assert (found.first10, found.last10, found.delta) == (19.5, 1.5, -18.0)
    assert (found.final, found.lowest, found.lowest_step, found.highest) == (1, 1, 20, 20)
    assert (found.early, found.mid, found.late) == (17.5, 10.5, 3.5)
    assert figures(table, CODEBOOK_USAGE) is None


def test_a_row_with_a_step_and_other_things_alone_is_no_row_but_is_in_the_summary() -> None:
    collector = Collector(counts=lambda step: step < 5)
    collector.add({"_step": 3, "pictures": 2, "name": "x", "_timestamp": 1.0})
    collector.add({"_step": 7, "pictures": 9})
    collector.add({"train/loss": 1.0})
    assert len(collector.table) == 0
    assert collector.last == {"_step": 3, "pictures": 2}


def test_both_names_of_the_codebook_usage_are_one_column() -> None:
    rows = [{"_step": 0, "train/codebook_usage": 0.5}, {"_step": 1, "latent_actions/codebook_usage": 0.25}]
    assert collected(rows).columns[CODEBOOK_USAGE].tolist() == [0.5, 0.25]


def test_rows_that_are_missing_come_from_the_other_table_in_the_order_of_steps() -> None:
    some = collected([{"_step": step, LOSS: 1.0} for step in (0, 2, 3)])
    all_ = collected([{"_step": step, LOSS: 9.0} for step in range(5)])
    filled = some.filled(all_)
    assert filled.steps.tolist() == [0, 1, 2, 3, 4]
    assert filled.columns[LOSS].tolist() == [1, 9, 1, 1, 9]


def test_the_rolling_mean_is_that_of_the_rows_before() -> None:
    values = np.random.default_rng(0).normal(size=300)
    expected = [values[max(0, end - 7) : end].mean() for end in range(1, 301)]
    np.testing.assert_allclose(rolling_mean(values, 7), expected, rtol=1e-12, atol=1e-12)
    assert (window(3), window(100_000)) == (5, 2000)


def test_a_million_rows_are_drawn_with_few_points_and_no_spike_is_lost() -> None:
    steps, values = np.arange(1_000_000.0), np.ones(1_000_000)
    values[123_456], values[777_777] = 50.0, -50.0
    drawn = outline(steps, values, 1500)
    assert len(drawn.steps) == 1500
    assert (drawn.high.max(), drawn.low.min()) == (50.0, -50.0)
    assert thinned(steps, values, 1500)[0][[0, -1]].tolist() == [0, 999_999]


def test_the_pace_leaves_out_where_the_clock_was_set_back() -> None:
    rows = [{"_step": step, LOSS: 1.0, SECONDS: (step % 10) * 0.5} for step in range(30)]
    assert updates_per_second(collected(rows)) == pytest.approx(2.0)
