"""What each stage trains on, and what its picture sheet shows.

Shapes: B batch, T frames, H, W pixels, P patches, L latent dimensions, A action bits, R rows of a sheet.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from services.trainer.worker.data import Data
from services.trainer.worker.order import Indices
from shared.bundle import Bundle
from shared.config import StageConfig
from shared.events import BundlePath, Stage
from shared.sheets import MOST_FRAMES, Pixels
from shared.worldmodel.build import build_model, load_weights
from shared.worldmodel.checkpoints import architecture_of, check_same_architecture, load_checkpoint
from shared.worldmodel.dynamics import Dynamics
from shared.worldmodel.frames import to_float, to_uint8
from shared.worldmodel.latent_actions import LatentActions
from shared.worldmodel.token_cache import TokenCache
from shared.worldmodel.video_tokenizer import VideoTokenizer

GREY = 128
SHEET_MASK = 0.5
"""Share of the last frame's tokens that the dynamics' sheet hides."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Arguments of a model's training forward."""

    positional: tuple[Any, ...]
    named: dict[str, Any]


class Task(Protocol):
    """One stage's part of the training loop."""

    @property
    def model(self) -> nn.Module:
        """What is trained, not wrapped."""
        ...

    @property
    def frozen(self) -> dict[Stage, nn.Module]:
        """Models of other stages that it is trained with."""
        ...

    def inputs(self, windows: Indices, generator: torch.Generator) -> Inputs:
        """What the model trains on: these training windows, with this randomness."""
        ...

    def sheet(self, frames_rthwc: Tensor) -> tuple[Pixels, Pixels]:
        """Originals and generated frames, uint8 [R, F, H, W, 3]; called in eval mode, without gradients."""
        ...


@dataclass(slots=True)
class TokenizerTask:
    """Reconstruct windows."""

    model: VideoTokenizer
    data: Data

    @property
    def frozen(self) -> dict[Stage, nn.Module]:
        """None."""
        return {}

    def inputs(self, windows: Indices, generator: torch.Generator) -> Inputs:  # noqa: ARG002
        """The frames alone."""
        return Inputs((to_float(self.data.frames(windows)),), {})

    def sheet(self, frames_rthwc: Tensor) -> tuple[Pixels, Pixels]:
        """Windows and their reconstruction."""
        shown_rthwc = frames_rthwc[:, :MOST_FRAMES]
        generated = self.model.decode(self.model.encode(to_float(shown_rthwc)))
        return _pixels(shown_rthwc), _pixels(to_uint8(generated))


@dataclass(slots=True)
class LatentActionsTask:
    """Predict windows from their first frame and the actions between frames."""

    model: LatentActions
    data: Data

    @property
    def frozen(self) -> dict[Stage, nn.Module]:
        """None."""
        return {}

    def inputs(self, windows: Indices, generator: torch.Generator) -> Inputs:
        """The frames."""
        return Inputs((to_float(self.data.frames(windows)),), {"generator": generator})

    def sheet(self, frames_rthwc: Tensor) -> tuple[Pixels, Pixels]:
        """Windows, and their frames after the first as predicted from the one before and the action."""
        shown_rthwc = frames_rthwc[:, :MOST_FRAMES]
        seen = to_float(shown_rthwc)
        predicted = self.model.predict(seen, self.model.bits(self.model.actions(seen)))
        return _pixels(shown_rthwc), _pixels(to_uint8(predicted))


@dataclass(slots=True)
class DynamicsTask:
    """Predict hidden tokens from visible ones and actions; tokenizer and latent actions are frozen."""

    model: Dynamics
    tokenizer: VideoTokenizer
    latent_actions: LatentActions | None
    """None without actions."""
    tokens: TokenCache

    @property
    def frozen(self) -> dict[Stage, nn.Module]:
        """Tokenizer and, with actions, latent actions."""
        models: dict[Stage, nn.Module] = {"video_tokenizer": self.tokenizer}
        return models if self.latent_actions is None else {**models, "latent_actions": self.latent_actions}

    def inputs(self, windows: Indices, generator: torch.Generator) -> Inputs:
        """Tokens and actions."""
        tokens_btp, codes_bt = self.tokens.take(windows)
        return Inputs((tokens_btp, self._bits(codes_bt)), {"generator": generator})

    def sheet(self, frames_rthwc: Tensor) -> tuple[Pixels, Pixels]:
        """Windows with half of the last frame's patches greyed, and what one step makes of exactly that."""
        shown_rthwc = frames_rthwc[:, :MOST_FRAMES]
        seen = to_float(shown_rthwc)
        tokens_rtp = self.tokenizer.tokenize(seen)
        mask_rtp = torch.zeros_like(tokens_rtp, dtype=torch.bool)
        draw = torch.rand(mask_rtp[:, -1].shape, generator=torch.Generator().manual_seed(0))
        mask_rtp[:, -1] = (draw < SHEET_MASK).to(seen.device)
        latents = torch.where(mask_rtp.unsqueeze(-1), self.model.mask_token, self.model.latents(tokens_rtp))
        codes_rt = None if self.latent_actions is None else self.latent_actions.actions(seen)
        best_rtp = self.model.logits(latents, self._bits(codes_rt)).argmax(-1)
        predicted = self.tokenizer.decode(self.tokenizer.latents(torch.where(mask_rtp, best_rtp, tokens_rtp)))
        return _pixels(_greyed(shown_rthwc, mask_rtp)), _pixels(to_uint8(predicted))

    def _bits(self, codes_bt: Tensor | None) -> Tensor | None:
        return None if codes_bt is None else self.model.bits(codes_bt)


def build_task(
    stage: Stage, config: StageConfig, bundle: Bundle, upstream: dict[Stage, BundlePath], data: Data
) -> Task:
    """The stage's model with fresh weights, and the frozen models it reads, on the data's device.

    Raises:
        CheckpointError: An upstream checkpoint is missing, broken, or of another architecture.
    """
    if stage == "video_tokenizer":
        return TokenizerTask(build_model("video_tokenizer", config).to(data.device), data)
    if stage == "latent_actions":
        return LatentActionsTask(build_model("latent_actions", config).to(data.device), data)
    tokenizer = build_model("video_tokenizer", config).to(data.device)
    _load_frozen("video_tokenizer", tokenizer, bundle.resolve(upstream["video_tokenizer"]), config)
    latent_actions = None
    if config.use_actions:
        latent_actions = build_model("latent_actions", config).to(data.device)
        _load_frozen("latent_actions", latent_actions, bundle.resolve(upstream["latent_actions"]), config)
    tokens = TokenCache(
        data.dataset,
        tokenizer,
        latent_actions,
        folder=data.cache / "tokens",
        limit_gb=config.token_cache_gb,
        report=data.report,
    )
    return DynamicsTask(build_model("dynamics", config).to(data.device), tokenizer, latent_actions, tokens)


def _load_frozen(stage: Stage, model: nn.Module, directory: Path, config: StageConfig) -> None:
    checkpoint = load_checkpoint(directory)
    check_same_architecture(
        {
            str(directory): architecture_of(checkpoint.config, stage),
            "the configuration": architecture_of(config.model_dump(), "dynamics"),
        }
    )
    load_weights(model, checkpoint)
    model.eval().requires_grad_(False)  # noqa: FBT003 - torch's signature


def _pixels(frames_rthwc: Tensor) -> Pixels:
    return frames_rthwc.cpu().numpy()


def _greyed(frames_rthwc: Tensor, mask_rtp: Tensor) -> Tensor:
    rows, count, height, width, _ = frames_rthwc.shape
    grid = round(mask_rtp.shape[-1] ** 0.5)
    mask = mask_rtp.view(rows, count, grid, grid)
    mask = mask.repeat_interleave(height // grid, 2).repeat_interleave(width // grid, 3)
    return frames_rthwc.masked_fill(mask.unsqueeze(-1), GREY)
