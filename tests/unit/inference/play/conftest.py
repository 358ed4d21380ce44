"""What the tests of play share: an engine that paints what it is told, and worlds of a few weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from services.inference.play.config import PlayConfig
from services.inference.play.engine import Decoded, Engine, State
from services.inference.play.legend import Code, Legend
from services.inference.world import World
from shared.config import InferenceConfig
from shared.datasets.frames import FramesDataset
from tests.unit.inference.conftest import TinyRun

CODES, IDLE = 4, 1
TOKEN = "open sesame ä"


class PaintingEngine:
    """Stands in for the models: a frame's first pixel is (seed, frames since the seed, action taken)."""

    size = 8
    most_steps = 16
    starts = range(10, 20)

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.problem: Exception | None = None

    def begin(self, start: int) -> tuple[State, Any, float]:
        return State(torch.tensor([[start, 0]]), ()), self._frame(start, 0, 255), 0.001

    def advance(self, states: Sequence[State], codes: Sequence[int], steps: int) -> Decoded:
        if self.problem is not None:
            raise self.problem
        self.batches.append(len(states))
        after, frames = [], []
        for state, code in zip(states, codes, strict=True):
            start, age = state.tokens_tp[0].tolist()
            after.append(State(torch.tensor([[start, age + 1]]), ()))
            frames.append(self._frame(start, age + 1, code))
        return Decoded(after, np.stack(frames), 0.001, 0.001)

    def _frame(self, *pixel: int) -> Any:
        return np.full((self.size, self.size, 3), pixel, np.uint8)


@pytest.fixture
def painting() -> PaintingEngine:
    return PaintingEngine()


@pytest.fixture
def legend() -> Legend:
    return Legend(
        tuple(Code(code, key=None, learned=False, share=0.25, change=1.0) for code in range(CODES)), IDLE
    )


def play_config(**changes: Any) -> PlayConfig:
    fields = {
        "checkpoints": {"dynamics": Path("dynamics_step_9")},
        "dataset": Path("pong_frames.h5"),
        "training": {},
        "game": "pong",
        "run": "20260101_000000",
        "cache_dir": Path(),
        "fps": 60,
        "players": 2,
        "token": TOKEN,
    }
    return PlayConfig.model_validate(fields | changes)


@pytest.fixture
def tiny_dataset(tiny_run: TinyRun, tmp_path: Path) -> FramesDataset:
    return FramesDataset.open(
        tmp_path / "square_frames.h5", context_length=4, fps=60, cache_dir=tmp_path, frame_size=16
    )


@pytest.fixture
def tiny_engine(tiny_run: TinyRun, tiny_dataset: FramesDataset) -> Engine:
    paths = {stage: tiny_run.bundle.resolve(path) for stage, path in tiny_run.checkpoints.items()}
    return Engine(World.load(paths, "cpu"), tiny_dataset, InferenceConfig(temperature=0))
