"""The metrics, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inference.core import metrics


def clip(*levels: float) -> np.ndarray:
    """One clip of flat frames."""
    return np.broadcast_to(np.array(levels, np.float32)[None, :, None, None, None], (1, len(levels), 8, 8, 3))


def test_mse_is_per_clip_and_frame() -> None:
    predicted = np.concatenate([clip(0.5, 0.5), clip(1.0, 0.0)])
    target = np.concatenate([clip(0.5, 0.3), clip(0.0, 0.0)])
    np.testing.assert_allclose(metrics.frame_mse(predicted, target), [[0, 0.04], [1, 0]], atol=1e-7)


def test_psnr_is_20_db_at_an_error_of_a_tenth_and_stops_at_rounding() -> None:
    psnr = metrics.frame_psnr(np.array([0.01, 1.0, 0.0]))
    np.testing.assert_allclose(psnr[:2], [20, 0], atol=1e-12)
    assert psnr[2] == pytest.approx(58.92, abs=0.01)


def test_skill_is_the_share_of_the_baselines_error_that_is_gone() -> None:
    assert metrics.skill(0.01, 0.04) == 0.75
    assert metrics.skill(0.04, 0.04) == 0
    assert metrics.skill(0.08, 0.04) == -1
    assert metrics.skill(0.01, 0.0) is None
    assert metrics.skills(np.array([0.01, 0.04]), np.array([0.04, 0.02])) == [0.75, -1]
    assert metrics.skills(np.array([0.01, 0.04]), np.array([0.04, 0.0])) == []


def test_motion_ratio_compares_how_much_moves() -> None:
    target = clip(0.0, 0.2, 0.6)
    assert metrics.motion_ratio(target, target) == pytest.approx(1)
    assert metrics.motion_ratio(clip(0.3, 0.3, 0.3), target) == 0
    assert metrics.motion_ratio(clip(0.6, 0.5, 0.3), target) == pytest.approx(0.5)
    assert metrics.motion_ratio(target, clip(0.5, 0.5, 0.5)) is None
    assert metrics.motion_ratio(clip(0.5), clip(0.1)) is None


def test_motion_is_told_from_each_frame_to_the_next() -> None:
    target = clip(0.0, 0.2, 0.6)
    assert metrics.motion_ratios(clip(0.0, 0.1, 0.5), target) == pytest.approx([0.5, 1])
    assert metrics.motion_ratios(target, clip(0.0, 0.0, 0.6)) == []


def slow_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """One colour of one frame, window by window, from the definition."""
    found = []
    for row in range(x.shape[0] - 6):
        for column in range(x.shape[1] - 6):
            a, b = (i[row : row + 7, column : column + 7].ravel() for i in (x, y))
            (var_a, cov), (_, var_b) = np.cov(a, b)
            mean_a, mean_b = a.mean(), b.mean()
            similar = (2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
            found.append(similar / ((mean_a**2 + mean_b**2 + 1e-4) * (var_a + var_b + 9e-4)))
    return float(np.mean(found))


def test_ssim_equals_its_definition() -> None:
    chance = np.random.default_rng(0)
    x, y = chance.random((2, 2, 3, 12, 10, 3))
    y = 0.5 * x + 0.5 * y
    got = metrics.frame_ssim(x, y)
    assert got.shape == (2, 3)
    assert got[1, 2] == pytest.approx(
        np.mean([slow_ssim(x[1, 2, ..., c], y[1, 2, ..., c]) for c in range(3)])
    )


def test_ssim_of_a_frame_with_itself_is_1_and_of_two_flat_ones_knows_brightness() -> None:
    frame = np.random.default_rng(0).random((1, 9, 9, 3))
    assert metrics.frame_ssim(frame, frame)[0] == pytest.approx(1)
    flat = metrics.frame_ssim(np.full((1, 9, 9, 3), 0.2), np.full((1, 9, 9, 3), 0.6))[0]
    assert flat == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4))
    assert metrics.frame_ssim(frame[:, :4, :4], frame[:, :4, :4])[0] == pytest.approx(1)


@given(st.floats(0, 1), st.integers(1, 5), st.integers(1, 20))
def test_the_references_number_averages_the_copied_context_in(
    mse: float, context: int, generated: int
) -> None:
    frames = np.array([0.0] * context + [mse] * generated)
    assert metrics.mse_with_context(mse, context=context, generated=generated) == pytest.approx(frames.mean())
