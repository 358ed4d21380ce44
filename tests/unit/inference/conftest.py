"""A tiny run: a recording of a moving square, three untrained checkpoints, and the events that name them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from shared.bundle import Bundle
from shared.config import RunConfig
from shared.datasets.frames import FramesDataset
from shared.events import STAGES, EvaluateInference, RunSpec, Stage
from shared.worldmodel.seen import record, seen_in
from tests.untrained import save_untrained

RUN_ID = "20260101_000000"
RUN_NAME, RECORDING = "2026_01_01_00_00_00_square", "square_frames.h5"
SIZE, FRAMES = 16, 300


def moving_square(count: int = FRAMES) -> np.ndarray:
    """A bright square that walks over noise; no two frames are equal."""
    chance = np.random.default_rng(0)
    frames = chance.integers(0, 60, (count, SIZE, SIZE, 3), np.uint8)
    for number, frame in enumerate(frames):
        at = number % (SIZE - 4)
        frame[at : at + 4, 4:8] = 230
    return frames


def write_recording(path: Path, frames: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["frames"] = frames
    return path


@dataclass
class TinyRun:
    """A run's bundle and what its events would say."""

    bundle: Bundle
    spec: RunSpec
    checkpoints: dict[Stage, str]

    def command(self, **settings: Any) -> EvaluateInference:
        settings = {"clips": 3, "decode_steps": 2, "generation_steps": 6, "device": "cpu", **settings}
        return EvaluateInference(
            run_id=RUN_ID, inference_try=1, checkpoints=self.checkpoints, settings=settings
        )


def configuration(dataset: Path, **training: Any) -> RunConfig:
    backbone = {"embed_dim": 16, "num_heads": 2, "hidden_dim": 16, "num_blocks": 1}
    small = {"frame_size": SIZE, "patch_size": 8, "latent_dim": 2, "num_bins": 4, "fps": 60}
    return RunConfig.model_validate(
        {"training": {"dataset": str(dataset), "nproc_per_node": 1, **small, **training}}
        | dict.fromkeys(STAGES, backbone)
    )


def save(bundle: Bundle, stage: Stage, config: RunConfig) -> str:
    """An untrained checkpoint that says it was trained on the configuration's recording."""
    stage_config = config.stage(stage)
    dataset = FramesDataset.open(
        Path(stage_config.dataset),
        context_length=stage_config.context_length,
        fps=stage_config.fps,
        held_out_ratio=stage_config.held_out_ratio,
        cache_dir=bundle.root,
    )
    directory = bundle.checkpoint(stage, 1)
    save_untrained(directory, stage, stage_config, extra=record([seen_in(dataset)]))
    return bundle.relative(directory)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """The run that each test gets a copy of."""
    return trained_in(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def tiny_run(trained: TinyRun, tmp_path: Path) -> TinyRun:
    """A run whose files a test may change, with its recording beside it."""
    shutil.copytree(trained.bundle.root.parent, tmp_path, dirs_exist_ok=True)
    bundle = Bundle(tmp_path / RUN_ID, RUN_NAME)
    return _run(bundle, configuration(tmp_path / RECORDING), dict(trained.checkpoints))


def trained_in(directory: Path) -> TinyRun:
    """A new run in a directory, beside its recording."""
    config = configuration(write_recording(directory / RECORDING, moving_square()))
    bundle = Bundle(directory / RUN_ID, RUN_NAME)
    bundle.root.mkdir()
    return _run(bundle, config, {stage: save(bundle, stage, config) for stage in STAGES})


def _run(bundle: Bundle, config: RunConfig, checkpoints: dict[Stage, str]) -> TinyRun:
    spec = RunSpec(
        bundle=str(bundle.root),
        run_name=bundle.run_name,
        profile="test",
        configuration=config.model_dump(mode="json"),
        policy={},
        origins={},
        stages=list(STAGES),
    )
    return TinyRun(bundle, spec, checkpoints)
