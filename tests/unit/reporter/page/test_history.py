"""Histories thinned out, read as they grow, and cut back."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.reporter.core.page.history import Rows, thin
from services.reporter.page.histories import Histories
from shared.bundle import Bundle
from shared.errors import BundleError

HEAD = "_step,train/loss,_runtime\n"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path, "2026_01_01_00_00_00_pong")


def write(bundle: Bundle, attempt: int, text: str) -> None:
    path = bundle.history("dynamics", attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def rows(start: int, end: int, extra: float = 0.0) -> str:
    return "".join(f"{step},{step + extra},{step * 0.1:.3f}\n" for step in range(start, end))


@given(
    lengths=st.lists(st.integers(1, 80), min_size=1, max_size=8),
    points=st.integers(10, 200),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_no_more_points_than_asked_for_and_every_row_within_one(
    lengths: list[int], points: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    attempts = []
    for number, length in enumerate(lengths):
        values = np.where(rng.random(length) < 0.1, np.nan, rng.normal(size=length))
        attempts.append(Rows(number, np.arange(length, dtype=np.int64) + 7 * number, values))
    curves = thin(attempts, {0: 3}, points)
    assert sum(len(curve.step) for curve in curves) <= points
    assert curves[0].superseded_from == 3
    for curve, each in zip(curves, attempts, strict=True):
        finite = each.values[np.isfinite(each.values)]
        lows = [value for value in curve.low if value is not None]
        highs = [value for value in curve.high if value is not None]
        if len(finite):
            assert math.isclose(min(lows), finite.min(), rel_tol=1e-5)
            assert math.isclose(max(highs), finite.max(), rel_tol=1e-5)
        assert curve.step == sorted(curve.step)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60), points=st.integers(1, 80))
@settings(max_examples=60, deadline=None)
def test_there_are_never_more_points_however_many_attempts_there_are(lengths: list[int], points: int) -> None:
    attempts = [
        Rows(n, np.arange(length, dtype=np.int64), np.ones(length)) for n, length in enumerate(lengths)
    ]
    curves = thin(attempts, {}, points)
    assert 1 <= sum(len(curve.step) for curve in curves) <= points
    assert len(curves) == min(len(lengths), points)
    if points > 1:
        assert {0, len(lengths) - 1} <= {curve.attempt for curve in curves}


def test_a_near_look_shows_each_update_by_how_many_were_done(bundle: Bundle) -> None:
    write(bundle, 1, HEAD + rows(0, 5000))
    found = Histories().read(bundle, "dynamics", "train/loss", {1: None}, start=10, end=14)
    assert found.curves[0].step == [10, 11, 12, 13, 14]
    assert found.curves[0].mean == [9, 10, 11, 12, 13]
    assert (found.first, found.last, found.columns) == (1, 5000, ["train/loss"])


def test_a_growing_file_is_read_on_and_its_torn_line_waits(bundle: Bundle) -> None:
    histories = Histories()
    write(bundle, 1, HEAD + rows(0, 3) + "3,3")
    assert histories.read(bundle, "dynamics", "train/loss", {}).rows == 3
    write(bundle, 1, HEAD + rows(0, 5))
    write(bundle, 2, HEAD + rows(5, 7))
    found = histories.read(bundle, "dynamics", "train/loss", {})
    assert (found.rows, found.last, len(found.curves)) == (7, 7, 2)


def test_a_file_that_was_cut_back_and_grew_again_is_read_anew(bundle: Bundle) -> None:
    histories = Histories()
    write(bundle, 1, HEAD + rows(0, 50))
    histories.read(bundle, "dynamics", "train/loss", {})
    write(bundle, 1, HEAD + rows(0, 20) + rows(20, 80, extra=0.5))
    found = histories.read(bundle, "dynamics", "train/loss", {})
    assert found.rows == 80
    assert found.curves[0].mean[49] == 49.5


def test_lines_that_are_no_rows_are_left_out(bundle: Bundle) -> None:
    write(bundle, 1, HEAD + rows(0, 3) + "what,is,this,line\n\n3,nan,0\n4,inf,0\n5,,0\n" + rows(6, 8))
    write(bundle, 2, HEAD + rows(8, 10))
    found = Histories().read(bundle, "dynamics", "train/loss", {})
    assert [curve.mean for curve in found.curves] == [[0, 1, 2, None, None, None, 6, 7], [8, 9]]


def test_a_column_that_is_not_there_is_named_with_those_that_are(bundle: Bundle) -> None:
    write(bundle, 1, HEAD + rows(0, 3))
    with pytest.raises(BundleError, match="no column loss; there is train/loss"):
        Histories().read(bundle, "dynamics", "loss", {})


def test_a_bundle_that_is_gone_has_no_curves(bundle: Bundle) -> None:
    assert Histories().read(bundle, "dynamics", "train/loss", {}).curves == []


def test_columns_that_nobody_asks_for_are_let_go(bundle: Bundle) -> None:
    histories = Histories(max_rows=5)
    write(bundle, 1, "_step,a,b\n0,1,2\n1,1,2\n2,1,2\n")
    for column in ("a", "b", "a"):
        assert histories.read(bundle, "dynamics", column, {}).rows == 3
    assert len(histories._kept) == 1


def test_a_column_that_is_not_there_is_not_kept(bundle: Bundle) -> None:
    histories = Histories()
    write(bundle, 1, HEAD + rows(0, 3))
    for number in range(3):
        with pytest.raises(BundleError, match="no column"):
            histories.read(bundle, "dynamics", f"made up {number}", {})
    assert histories._kept == {}
