"""Two tokenizers on the same frames: which of them shows a game better.

Shapes: N windows, T frames of a window, H, W pixels, 3 colours. Windows are told apart rather than frames,
because frames of one window are alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from services.inference.core import intervals, metrics
from services.inference.core.clips import clip_starts
from services.inference.core.quality import limits
from services.inference.picture import Row, Sheet, difference, spread
from services.inference.world import Images, device_of, reconstruct
from shared.config import Device
from shared.datasets.frames import FramesDataset, span_of
from shared.datasets.mapping import Frames
from shared.errors import CheckpointError, DatasetError
from shared.worldmodel.build import model_of
from shared.worldmodel.checkpoints import Checkpoint
from shared.worldmodel.seen import Seen, never_saw_held_out, seen_by
from shared.worldmodel.video_tokenizer import VideoTokenizer

WINDOWS = 64
"""Windows, at most; they do not overlap."""
BATCH = 8
BOUNDS = {"mse": intervals.ERROR, "psnr": intervals.ANY, "ssim": intervals.SIMILARITY}


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A video tokenizer in eval mode on its device."""

    checkpoint: Checkpoint
    model: VideoTokenizer
    device: torch.device

    @classmethod
    def of(cls, checkpoint: Checkpoint, device: Device) -> Self:
        """The tokenizer that a checkpoint holds.

        Raises:
            CheckpointError: It is of another stage, or its weights and config do not belong together.
        """
        where, model = device_of(device), model_of(checkpoint)
        if not isinstance(model, VideoTokenizer):
            raise CheckpointError(
                f"{checkpoint.directory} is a checkpoint of {checkpoint.stage}, not of video_tokenizer"
            )
        return cls(checkpoint, model.to(where), where)

    @property
    def frame_size(self) -> int:
        """Height and width of the frames it knows."""
        return int(self.checkpoint.config["frame_size"])

    @property
    def seen(self) -> list[Seen]:
        """What it was trained on."""
        return seen_by(self.checkpoint)

    def show(self, frames: Frames) -> Images:
        """Its reconstruction of windows, [N, T, H, W, 3]."""
        batches = [frames[at : at + BATCH] for at in range(0, len(frames), BATCH)]
        return np.concatenate([reconstruct(self.model, batch, self.device) for batch in batches])


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it."""

    numbers: dict[str, Any]
    """`a`, `b` and `difference` (b minus a, window by window), each with mse, psnr, ssim and their 95 %
    intervals; `better`: "a" or "b" where the interval of the MSE's difference leaves no doubt, else none;
    `windows`, `frames`, `held_out`.
    """
    real: Frames
    """[N, T, H, W, 3]."""
    shown: tuple[Images, Images]
    """The reconstructions, as `real`."""


def compare(a: Tokenizer, b: Tokenizer, dataset: FramesDataset) -> Comparison:
    """Let two tokenizers show the same frames, held out from both if the recording has such.

    Raises:
        CheckpointError: They are made for frames of different sizes.
        DatasetError: The recording is shorter than one window.
    """
    if a.frame_size != b.frame_size:
        raise CheckpointError(
            f"{a.checkpoint.directory} is made for frames of {a.frame_size} pixels, {b.checkpoint.directory} "
            f"for {b.frame_size}: they cannot show the same frames"
        )
    frames, held_out = _windows(dataset, held_out=never_saw_held_out([*a.seen, *b.seen], dataset))
    target = (frames / 255.0).astype(np.float32)
    shown = a.show(frames), b.show(frames)
    of_a, of_b = (_measured(images, target) for images in shown)
    gain = {name: of_b[name] - of_a[name] for name in of_a}
    certain = intervals.interval95(gain["mse"])
    better = None if certain is None or certain[0] <= 0 <= certain[1] else "a" if certain[0] > 0 else "b"
    numbers = {
        "a": _summary(of_a, BOUNDS),
        "b": _summary(of_b, BOUNDS),
        "difference": _summary(gain, dict.fromkeys(gain, intervals.ANY)),
        "better": better,
        "windows": len(frames),
        "frames": frames.shape[0] * frames.shape[1],
        "held_out": held_out,
    }
    return Comparison(numbers, frames, shown)


def sheet_of(found: Comparison, *, title: str, windows: int) -> Sheet:
    """The picture of a comparison: originals, both reconstructions and how far they are off."""
    chosen = spread(len(found.real), windows)
    real = found.real[chosen]
    a, b = (np.rint(images[chosen] * 255).astype(np.uint8) for images in found.shown)
    rows = (
        Row("original", real),
        Row("A", a),
        Row("B", b),
        Row("difference A", difference(a, real)),
        Row("difference B", difference(b, real)),
    )
    return Sheet(title, tuple(str(frame + 1) for frame in range(real.shape[1])), 0, rows)


def _windows(dataset: FramesDataset, *, held_out: bool) -> tuple[Frames, bool]:
    span = span_of(dataset.context_length, dataset.stride)
    held_out = held_out and len(dataset.held_out) >= span
    part = dataset.held_out if held_out else range(len(dataset.frames))
    if len(part) < span:
        raise DatasetError(
            f"{dataset.path}: has {len(part)} frames, but a window of {dataset.context_length} frames at "
            f"stride {dataset.stride} spans {span}. Record more frames"
        )
    starts = clip_starts(part, span, min(WINDOWS, len(part) // span))
    return dataset.clips(starts, dataset.context_length), held_out


def _measured(images: Images, target: Images) -> dict[str, metrics.Array]:
    """Of each window, [N]."""
    mse = metrics.frame_mse(images, target)
    found = {"mse": mse, "psnr": metrics.frame_psnr(mse), "ssim": metrics.frame_ssim(images, target)}
    return {name: values.mean(axis=1) for name, values in found.items()}


def _summary(
    values: Mapping[str, metrics.Array], bounds: Mapping[str, intervals.Interval]
) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, each in values.items():
        found |= {name: float(each.mean())} | limits(name, intervals.interval95(each, bounds[name]))
    return found
