"""Which frames are tested, and which actions belong to which step."""

from __future__ import annotations

import numpy as np
import pytest

from services.inference.core.clips import Layout, clip_starts, given_codes, random_codes, standard_start
from shared.config import InferenceConfig


def test_clips_are_spread_evenly_and_stay_inside() -> None:
    assert clip_starts(range(100, 200), 20, 5).tolist() == [100, 120, 140, 160, 180]
    assert clip_starts(range(100, 200), 100, 8).tolist() == [100]
    assert clip_starts(range(100, 103), 2, 8).tolist() == [100, 101]
    assert clip_starts(range(100, 200), 101, 8).tolist() == []
    assert clip_starts(range(0), 1, 8).tolist() == []


def test_the_standard_test_slides_a_window_of_three_frames_over_fourteen() -> None:
    layout = Layout.of(InferenceConfig())
    assert (layout.length, layout.steps) == (14, 12)
    assert layout.window(0) == slice(0, 3)
    assert layout.window(11) == slice(11, 14)
    assert layout.transitions(11) == slice(11, 13)


def test_a_longer_horizon_takes_fewer_steps_and_may_run_over() -> None:
    layout = Layout(context=2, horizon=5, generated=12)
    assert (layout.steps, layout.length) == (3, 17)
    assert layout.window(2) == slice(10, 17)


def test_the_references_clip_lies_in_the_leading_two_percent() -> None:
    starts = {standard_start(10_000, 14, sample_index=None, seed=seed) for seed in range(200)}
    assert None not in starts
    assert max(start for start in starts if start is not None) + 14 <= 200
    assert len(starts) > 50
    assert standard_start(100, 14, sample_index=None, seed=0) == 0
    assert standard_start(13, 14, sample_index=None, seed=0) is None


@pytest.mark.parametrize(("index", "found"), [(0, 0), (86, 86), (87, None), (-1, None)])
def test_a_sample_index_is_taken_if_its_clip_fits(index: int, found: int | None) -> None:
    assert standard_start(100, 14, sample_index=index, seed=0) == found


def test_random_codes_are_those_given_and_repeat() -> None:
    codes = random_codes(np.array([1, 3]), (50, 4), seed=7)
    assert set(codes.ravel().tolist()) == {1, 3}
    np.testing.assert_array_equal(codes, random_codes(np.array([1, 3]), (50, 4), seed=7))
    assert not np.array_equal(codes, random_codes(np.array([1, 3]), (50, 4), seed=8))


def test_given_codes_lead_to_the_generated_frames_and_begin_again() -> None:
    table = given_codes(np.array([1, 3, 2]), 2, Layout(context=3, horizon=2, generated=5))
    assert table.tolist() == [[0, 0, 1, 3, 2, 1, 3, 2]] * 2
