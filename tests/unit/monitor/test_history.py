"""From rows to statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.monitor.core.history import levels, pace, statistics
from services.monitor.files import read_history
from shared.errors import BundleError
from shared.events import HistoryStats
from shared.windows import windows

NAN = float("nan")


def stats(
    columns: dict[str, list[float]], start: int = 0, target: int = 10, frames: int | None = None
) -> HistoryStats:
    arrays = {name: np.array(values, dtype=np.float64) for name, values in columns.items()}
    return statistics(
        arrays, file="Logs/h.csv", start_step=start, target_step=target, frames_per_update=frames
    )


def test_windows_are_thirds_and_tenths() -> None:
    found = windows(np.arange(30.0))
    assert (found.early, found.mid, found.late) == (4.5, 14.5, 24.5)
    assert (found.first10, found.last10, found.delta) == (1.0, 28.0, 27.0)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9, 11])
def test_windows_of_few_rows_have_at_least_one(rows: int) -> None:
    found = windows(np.full(rows, 2.0))
    assert (found.early, found.mid, found.late, found.first10, found.last10, found.delta) == (
        2,
        2,
        2,
        2,
        2,
        0,
    )


def test_a_rising_loss_has_a_positive_delta() -> None:
    assert windows(np.linspace(1, 2, 50)).delta > 0
    assert windows(np.linspace(2, 1, 50)).delta < 0


def test_rows_without_a_finite_loss_are_dropped_and_counted() -> None:
    found = stats({"_step": [0, 1, 2, 3], "train/loss": [4, NAN, float("inf"), 1]})
    assert (found.rows, found.dropped_rows) == (2, 2)
    assert (found.final_loss, found.min_loss, found.median_loss) == (1, 1, 2.5)
    assert (found.first_step, found.last_step) == (0, 3)


def test_coverage_counts_the_chunks_updates_once() -> None:
    steps = [8.0, 9, 10, 10, 11, 12, 20]
    found = stats({"_step": steps, "train/loss": [1.0] * 7}, start=10, target=13)
    assert found.covered_steps == 3


def test_no_row_with_a_loss_gives_no_statistics_but_no_error() -> None:
    found = stats({"_step": [0], "train/loss": [NAN]})
    assert (found.rows, found.dropped_rows, found.final_loss, found.loss) == (0, 1, None, None)


def test_action_statistics_are_last_values() -> None:
    found = stats(
        {
            "_step": [0, 1, 2],
            "train/loss": [3, 2, 1],
            "action_entropy": [0.1, 0.9, NAN],
            "unique_actions": [1, 4, 3],
            "latent_actions/codebook_usage": [0.25, 0.5, 0.75],
            "learning_rate/group_0": [1e-3, 2e-3, 5e-4],
        }
    )
    assert (found.action_entropy, found.unique_actions, found.codebook_usage) == (0.9, 3, 0.75)
    assert found.learning_rate == 5e-4


def test_the_tokenizers_codebook_usage_has_another_name() -> None:
    assert stats({"_step": [0], "train/loss": [1], "train/codebook_usage": [0.5]}).codebook_usage == 0.5


def test_throughput_skips_a_clock_that_was_set_back() -> None:
    columns: dict[str, list[float]] = {
        "_step": [0, 1, 2, 3],
        "train/loss": [1.0] * 4,
        "_runtime": [10.0, 11.0, 0.5, 1.5],
    }
    assert stats(columns, frames=24).frames_per_sec == 24
    assert stats(columns).frames_per_sec is None
    assert stats({"_step": [0], "train/loss": [1], "_runtime": [1]}, frames=24).frames_per_sec is None


def losses(*values: float) -> HistoryStats:
    return stats({"_step": [float(step) for step in range(len(values))], "train/loss": list(values)})


def test_a_loss_that_is_no_number_is_told_from_one_that_is_missing() -> None:
    inf = float("inf")
    found = losses(4, inf, NAN, 3, -inf, NAN)
    assert (found.rows, found.dropped_rows, found.non_finite_rows, found.non_finite_tail) == (2, 4, 2, 1)
    found = losses(inf, inf, NAN)
    assert (found.rows, found.non_finite_rows, found.non_finite_tail) == (0, 2, 2)


def test_a_row_without_a_step_is_no_row() -> None:
    found = stats({"_step": [0.0, NAN], "train/loss": [1.0, float("inf")]})
    assert (found.non_finite_rows, found.non_finite_tail) == (0, 0)


def test_levels_are_medians_over_twenty_blocks_of_the_newest_rows() -> None:
    values = np.repeat(np.arange(20.0, 0.0, -1.0), 5)
    found = levels(np.concatenate([np.full(3, 90.0), values]))
    assert found is not None
    assert (found.first, found.lowest, found.last, found.noise) == (90, 2, 1, 0)


def test_the_last_block_is_not_among_the_lowest() -> None:
    values = np.repeat([3.0] * 10 + [1.0] * 9 + [0.5], 6)
    found = levels(values)
    assert found is not None
    assert (found.lowest, found.last) == (1, 0.5)


def test_levels_do_not_move_with_two_bad_rows_of_five() -> None:
    values = np.full(100, 2.0)
    values[::5] = values[1::5] = 1e6
    found = levels(values)
    assert found is not None
    assert (found.first, found.lowest, found.last, found.noise) == (2, 2, 2, 0)


def test_noise_is_the_spread_of_single_rows() -> None:
    values = 5 + 0.1 * np.random.default_rng(0).normal(size=20_000)
    found = levels(values)
    assert found is not None
    assert found.noise == pytest.approx(0.1, rel=0.03)


def test_few_rows_have_no_levels() -> None:
    assert levels(np.ones(99)) is None
    assert levels(np.ones(100)) is not None


def test_the_pace_is_a_median_and_a_slowdown_compares_the_ends_of_a_chunk() -> None:
    each = np.array([60.0] + [1.0] * 14 + [2.0] * 5 + [3.0] * 9 + [500.0])
    steps, seconds = np.arange(31.0), np.concatenate([[0.0], np.cumsum(each)])
    assert pace(steps, seconds) == (2.0, 3.0)
    assert pace(2 * steps, seconds) == (1.0, 3.0)  # every second update is on record


def test_a_pace_needs_a_clock_and_a_slowdown_thirty_updates() -> None:
    steps = np.arange(31.0)
    assert pace(steps, None) == (None, None)
    assert pace(steps, np.full(31, NAN)) == (None, None)
    assert pace(steps[:30], steps[:30]) == (1.0, None)
    assert pace(steps, steps) == (1.0, 1.0)


def test_rows_where_clock_or_steps_were_set_back_have_no_pace() -> None:
    steps = np.array([0.0, 1, 2, 1, 2, 3])
    seconds = np.array([0.0, 2, 4, 6, 0, 2])
    assert pace(steps, seconds) == (2.0, None)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_history_is_read_with_gaps_and_foreign_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "h.csv", "_step,note,train/loss,grad_norm\n0,a,0.5,1\n1,b,,1\n2,c,nonsense,1\n")
    columns = read_history(path)
    assert set(columns) == {"_step", "train/loss"}
    np.testing.assert_array_equal(columns["train/loss"], [0.5, NAN, NAN])


def test_a_cell_that_says_nan_is_a_loss_and_an_empty_one_is_none(tmp_path: Path) -> None:
    rows = "0,0.5\n1,\n2,nan\n3,-NaN\n4,inf\n5,null\n6,0.25\n"
    columns = read_history(write(tmp_path / "h.csv", "_step,train/loss\n" + rows))
    inf = float("inf")
    np.testing.assert_array_equal(columns["train/loss"], [0.5, NAN, inf, inf, inf, NAN, 0.25])
    columns = read_history(write(tmp_path / "h.csv", "_step,train/loss\n0,nan\n1,NaN\n"))
    np.testing.assert_array_equal(columns["train/loss"], [inf, inf])


def test_a_torn_last_row_is_left_out(tmp_path: Path) -> None:
    columns = read_history(write(tmp_path / "h.csv", "_step,train/loss\n0,0.5\n1,0.0"))
    np.testing.assert_array_equal(columns["_step"], [0])


def test_a_row_may_lack_cells_at_its_end_and_a_line_may_be_empty(tmp_path: Path) -> None:
    columns = read_history(write(tmp_path / "h.csv", "\ufeff_step,train/loss\n\n0,0.5\n1\n\n2,1_0\n"))
    np.testing.assert_array_equal(columns["_step"], [0, 1, 2])
    np.testing.assert_array_equal(columns["train/loss"], [0.5, NAN, NAN])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "there is no history file"),
        ("", "cannot be read"),
        ("_step,train/loss\n", "no rows"),
        ("_step,loss\n0,1\n", "lacks the column 'train/loss'"),
        ("train/loss\n1\n", "lacks the column '_step'"),
        ('_step,train/loss\n0,"1\n', "cannot be read"),
        ("_step,train/loss\n0,1,2\n", "line 2 has 3 cells"),
    ],
)
def test_a_history_that_is_none_says_why(tmp_path: Path, content: str | None, problem: str) -> None:
    path = tmp_path / "h.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BundleError, match=problem):
        read_history(path)
