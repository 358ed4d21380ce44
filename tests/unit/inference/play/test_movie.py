"""Recordings: what went in comes out of the mp4."""

from __future__ import annotations

from io import BytesIO

import av
import numpy as np
import pytest

from services.inference.play.movie import SMALLEST, Movie


def test_a_recording_is_full_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.inference.play.movie.LARGEST", 2**18)
    chance = np.random.default_rng(0)
    movie = Movie(64, fps=10)
    while not movie.full:
        assert movie.frames < 200
        movie.add(chance.integers(0, 256, (64, 64, 3), np.uint8))
    assert 2**18 <= len(movie.finish()) < 2**24


@pytest.mark.parametrize("size", [64, 7])
def test_a_recording_can_be_watched(size: int) -> None:
    movie = Movie(size, fps=12.5)
    for shade in (20, 120, 220):
        movie.add(np.full((size, size, 3), shade, np.uint8))
    with av.open(BytesIO(movie.finish())) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == 12.5
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(shown) == movie.frames == 3
    assert shown[0].shape[0] >= SMALLEST
    assert [round(float(frame.mean()), -1) for frame in shown] == [20, 120, 220]
