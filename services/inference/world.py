"""The three models together: a world that can be watched, and that goes on by itself.

Shapes: K clips, L frames of a clip, Tc context frames, G generated frames, H, W pixels, 3 colours. Frames
come in as uint8 [K, L, H, W, 3] and go out as float32 in [0, 1]; action codes are int64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.inference.core.clips import Indices, Layout
from shared.config import Device
from shared.datasets.frames import FramesDataset
from shared.datasets.mapping import Frames
from shared.errors import CheckpointError
from shared.events import STAGES, Stage
from shared.worldmodel.build import model_of
from shared.worldmodel.checkpoints import (
    Checkpoint,
    architecture_of,
    check_same_architecture,
    load_checkpoint,
)
from shared.worldmodel.decoding import decode
from shared.worldmodel.dynamics import Dynamics
from shared.worldmodel.frames import to_float
from shared.worldmodel.latent_actions import LatentActions
from shared.worldmodel.seen import Seen, never_saw_held_out, seen_by
from shared.worldmodel.video_tokenizer import VideoTokenizer

Images = npt.NDArray[np.float32]


class Cancelled(Exception):
    """Nobody waits for the result any more."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How frames are generated."""

    steps: int
    temperature: float
    teacher_forced: bool
    """Every step sees the real frames before it instead of the generated ones."""
    seed: int


@dataclass(frozen=True, slots=True)
class World:
    """Tokenizer, latent actions and dynamics that fit together, in eval mode on one device."""

    tokenizer: VideoTokenizer
    latent_actions: LatentActions
    dynamics: Dynamics
    device: torch.device
    frame_size: int
    with_actions: bool
    """The dynamics was trained with actions."""
    seen: tuple[Seen, ...]
    """What the three were trained on."""
    cancelled: Callable[[], bool] = lambda: False
    """Asked before each step."""

    @classmethod
    def load(
        cls, directories: Mapping[Stage, Path], device: Device, cancelled: Callable[[], bool] = lambda: False
    ) -> Self:
        """Load the three checkpoints.

        Raises:
            CheckpointError: One is missing, invalid, of another stage, or its architecture differs.
        """
        return cls.of(
            {stage: load_checkpoint(path) for stage, path in directories.items()}, device, cancelled
        )

    @classmethod
    def of(
        cls, given: Mapping[Stage, Checkpoint], device: Device, cancelled: Callable[[], bool] = lambda: False
    ) -> Self:
        """The world that three checkpoints make; errors as `load`."""
        where = device_of(device)
        checkpoints = {stage: _checkpoint(given, stage) for stage in STAGES}
        check_same_architecture(
            {
                str(checkpoint.directory): architecture_of(checkpoint.config, stage)
                for stage, checkpoint in checkpoints.items()
            }
        )
        tokenizer, latent_actions, dynamics = (model_of(checkpoints[stage]).to(where) for stage in STAGES)
        assert isinstance(tokenizer, VideoTokenizer)
        assert isinstance(latent_actions, LatentActions)
        assert isinstance(dynamics, Dynamics)
        return cls(
            tokenizer=tokenizer,
            latent_actions=latent_actions,
            dynamics=dynamics,
            device=where,
            frame_size=checkpoints["video_tokenizer"].config["frame_size"],
            with_actions=bool(checkpoints["dynamics"].config.get("use_actions", True)),
            seen=tuple(each for checkpoint in checkpoints.values() for each in seen_by(checkpoint)),
            cancelled=cancelled,
        )

    @property
    def actions_total(self) -> int:
        """Number of action codes there are."""
        return self.latent_actions.n_actions

    def held_out_from(self, dataset: FramesDataset) -> bool:
        """Whether all three were trained on this recording alone, and on no frame that it now holds out."""
        return never_saw_held_out(self.seen, dataset)

    def action_codes(self, frames: Frames) -> Indices:
        """The action between each frame and the next, [K, L-1]."""
        self._go_on()
        with torch.inference_mode():
            codes: Indices = self.latent_actions.actions(_tensor(frames, self.device)).cpu().numpy()
        return codes

    def reconstruct(self, frames: Frames) -> Images:
        """What the tokenizer makes of frames, [K, L, H, W, 3]."""
        self._go_on()
        return reconstruct(self.tokenizer, frames, self.device)

    def rollout(
        self, clips: Frames, codes: Sequence[Indices] | None, layout: Layout, decoding: Decoding
    ) -> Images:
        """Generate what follows the first frames of clips.

        Args:
            clips: Real frames; all but the context are looked at only when teacher-forced.
            codes: Per step the actions of every transition in its window, [K, Tc - 1 + horizon]; none without
                actions.
            layout: Of the clips.
            decoding: How.

        Returns:
            The generated frames, [K, G, H, W, 3].
        """
        real = _tensor(clips, self.device)
        generator = torch.Generator().manual_seed(decoding.seed)
        context, generated = real[:, : layout.context], []
        with torch.inference_mode():
            for step in range(layout.steps):
                self._go_on()
                if decoding.teacher_forced:
                    context = real[:, layout.window(step)][:, : layout.context]
                new = decode(
                    self.dynamics,
                    self.tokenizer,
                    context,
                    None if codes is None else torch.from_numpy(codes[step]).to(self.device),
                    horizon=layout.horizon,
                    steps=decoding.steps,
                    temperature=decoding.temperature,
                    generator=generator,
                )
                generated.append(new)
                context = torch.cat([context, new], 1)[:, -layout.context :]
        return _images(torch.cat(generated, 1)[:, : layout.generated])

    def _go_on(self) -> None:
        if self.cancelled():
            raise Cancelled


def reconstruct(tokenizer: VideoTokenizer, frames: Frames, device: torch.device) -> Images:
    """What a tokenizer makes of frames, [K, L, H, W, 3]."""
    with torch.inference_mode():
        return _images(tokenizer.decode(tokenizer.encode(_tensor(frames, device))))


def device_of(device: Device) -> torch.device:
    """Where models are put.

    Raises:
        CheckpointError: CUDA was asked for and is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("inference.device is cuda, but torch sees no GPU here. Set it to auto or cpu")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def _checkpoint(given: Mapping[Stage, Checkpoint], stage: Stage) -> Checkpoint:
    if stage not in given:
        raise CheckpointError(
            f"no checkpoint of {stage} was given; the inference test needs all three stages"
        )
    checkpoint = given[stage]
    if checkpoint.stage != stage:
        raise CheckpointError(f"{checkpoint.directory} is a checkpoint of {checkpoint.stage}, not of {stage}")
    return checkpoint


def _tensor(frames: Frames, device: torch.device) -> Tensor:
    return to_float(torch.from_numpy(frames).to(device))


def _images(frames: Tensor) -> Images:
    images: Images = frames.float().clamp(-1, 1).add(1).div(2).movedim(-3, -1).cpu().numpy()
    return images
