"""What the tests of the world model share: the golden vectors, and models that train in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from shared.config import StageConfig
from shared.events import Stage
from shared.worldmodel.build import model_of
from shared.worldmodel.checkpoints import load_checkpoint
from shared.worldmodel.dynamics import Dynamics
from shared.worldmodel.frames import to_float
from shared.worldmodel.latent_actions import LatentActions
from shared.worldmodel.optim import GRADIENT_CLIP
from shared.worldmodel.transformer import TrainOutput
from shared.worldmodel.video_tokenizer import VideoTokenizer

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"
LAST = {"video_tokenizer": 119, "latent_actions": 59, "dynamics": 119}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Small models gain nothing from a second thread, and lose everything when the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def golden() -> Mapping[str, Tensor]:
    with np.load(GOLDEN / "vectors.npz") as vectors:
        tensors = {key: torch.from_numpy(vectors[key]) for key in vectors}
    return tensors | {"frames": to_float(tensors["frames"])}


@pytest.fixture(scope="session")
def tinyworlds() -> Mapping[str, Path]:
    """The checkpoint directory of each stage that TinyWorlds left."""
    (run,) = (GOLDEN / "tinyworlds_run" / "results").iterdir()
    return {stage: run / stage / "checkpoints" / f"{stage}_step_{step}" for stage, step in LAST.items()}


@pytest.fixture
def tokenizer(tinyworlds: Mapping[str, Path]) -> VideoTokenizer:
    model = model_of(load_checkpoint(tinyworlds["video_tokenizer"]))
    assert isinstance(model, VideoTokenizer)
    return model


@pytest.fixture
def latent_actions(tinyworlds: Mapping[str, Path]) -> LatentActions:
    model = model_of(load_checkpoint(tinyworlds["latent_actions"]))
    assert isinstance(model, LatentActions)
    return model


@pytest.fixture
def dynamics(tinyworlds: Mapping[str, Path]) -> Dynamics:
    model = model_of(load_checkpoint(tinyworlds["dynamics"]))
    assert isinstance(model, Dynamics)
    return model


class Tiny:
    """Models of a few thousand weights, not the golden sizes, and updates as the trainer does them."""

    tokens = 27

    def config(self, **changes: object) -> StageConfig:
        sizes = {
            "frame_size": 16,
            "patch_size": 4,
            "embed_dim": 24,
            "num_heads": 2,
            "hidden_dim": 36,
            "num_blocks": 2,
            "latent_dim": 3,
            "num_bins": 3,
            "n_actions": 8,
            "learning_rate": 1e-2,
            "seed": 7,
        }
        return StageConfig.model_validate(sizes | changes)

    def forward(
        self, model: nn.Module, stage: Stage, seed: int, *, frames: int = 4, actions: bool = True
    ) -> TrainOutput:
        """The training forward on a batch that the seed alone decides."""
        generator = torch.Generator().manual_seed(seed)
        if stage == "dynamics":
            indices = torch.randint(self.tokens, (3, frames, 16), generator=generator)
            bits = torch.randint(2, (3, frames - 1, 3), generator=generator) * 2.0 - 1
            output = model(indices, bits if actions else None, generator=generator)
        else:
            batch = torch.rand(3, frames, 3, 16, 16, generator=generator) * 2 - 1
            output = model(batch) if stage == "video_tokenizer" else model(batch, generator=generator)
        assert isinstance(output, TrainOutput)
        return output

    def update(self, model: nn.Module, optimizer: Optimizer, stage: Stage, index: int) -> float:
        """One update; the index decides everything random in it."""
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (index + 1)
        optimizer.zero_grad()
        loss = self.forward(model, stage, index).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_CLIP)
        optimizer.step()
        return loss.item()


@pytest.fixture
def tiny() -> Tiny:
    return Tiny()
