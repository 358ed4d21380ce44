"""The intervals, against tables and against chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from services.inference.core import intervals


def test_interval_is_students() -> None:
    # mean 3, s = sqrt(2.5), n = 5: half-width 2.7764 * s / sqrt(5)
    low, high = intervals.interval95(np.array([1.0, 2, 3, 4, 5])) or (0, 0)
    assert (low, high) == (pytest.approx(3 - 1.96322, abs=1e-4), pytest.approx(3 + 1.96322, abs=1e-4))


@pytest.mark.parametrize(("clips", "t"), [(2, 12.706), (11, 2.228), (12, 2.201), (31, 2.042), (121, 1.980)])
def test_interval_narrows_as_students_t_does(clips: int, t: float) -> None:
    values = np.tile([1.0, 3.0], clips)[:clips]
    low, high = intervals.interval95(values) or (0, 0)
    half = t * values.std(ddof=1) / math.sqrt(clips)
    assert high == pytest.approx(values.mean() + half, rel=2e-4)
    assert low == pytest.approx(values.mean() - half, rel=2e-3)


def test_a_single_clip_has_no_interval() -> None:
    assert intervals.interval95(np.array([1.0])) is None
    assert intervals.skill_interval95(np.array([1.0]), np.array([2.0])) is None
    assert intervals.per_frame(np.ones((1, 3))) == []
    assert intervals.skill_per_frame(np.ones((1, 3)), np.ones((1, 3))) == []


def test_no_interval_leaves_what_the_number_can_be() -> None:
    low, high = intervals.interval95(np.array([0.0, 1.0]), intervals.SIMILARITY) or (0, 0)
    assert (low, high) == (-1, 1)
    assert (intervals.interval95(np.array([0.0, 1.0]), intervals.ERROR) or (9, 9))[0] == 0


def test_a_skill_that_is_the_same_at_every_clip_is_certain() -> None:
    baseline = np.array([0.1, 0.2, 0.4])
    assert intervals.skill_interval95(baseline / 4, baseline) == (pytest.approx(0.75), pytest.approx(0.75))


def test_the_interval_of_a_skill_holds_the_truth_as_often_as_it_says() -> None:
    chance = np.random.default_rng(0)
    baseline = chance.gamma(20, 0.01, (2000, 8))
    mse = 0.4 * baseline * chance.gamma(50, 0.02, (2000, 8))
    found = [intervals.skill_interval95(*pair) or (0, 0) for pair in zip(mse, baseline, strict=True)]
    assert sum(low <= 0.6 <= high for low, high in found) / 2000 == pytest.approx(0.95, abs=0.015)


def test_a_baseline_without_error_leaves_skill_undefined() -> None:
    still = np.array([[0.1, 0.0], [0.2, 0.0]])
    assert intervals.skill_interval95(still[:, 1], still[:, 1]) is None
    assert intervals.skill_per_frame(still, still) == []


def test_each_frame_has_its_own_interval() -> None:
    values = np.array([[1.0, 5.0], [1.0, 7.0]])
    first, second = intervals.per_frame(values)
    assert first == (1, 1)
    assert second == intervals.interval95(np.array([5.0, 7.0]))
