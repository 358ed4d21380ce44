"""The standard inference test: clips that the model generates again, and every number about it.

Shapes: K clips, L frames of a clip, G generated frames, H, W pixels, 3 colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.inference.actions import codes_in_use, guessed_codes, inferred_codes, told_codes
from services.inference.config import Policy
from services.inference.core import metrics
from services.inference.core.clips import Indices, Layout, clip_starts, random_codes, standard_start
from services.inference.core.quality import ceiling, familiarity, quality, steering
from services.inference.world import Decoding, Images, World
from shared.config import InferenceConfig
from shared.datasets.frames import FramesDataset, span_of
from shared.datasets.inspection import frame_digest, mean_frame
from shared.datasets.mapping import Frames, blocks
from shared.errors import DatasetError, WorldloopError

DELTA_FRAME = 4
"""Generated frame at which delta-PSNR is taken (Genie's t = 4)."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of the test."""

    numbers: dict[str, Any]
    """Fields of `InferenceDone`."""
    real: Frames
    """The clips that gate, uint8 [K, L, H, W, 3]; of L, context and generated frames."""
    predicted: Images
    """The generated frames, [K, G, H, W, 3]."""


def evaluate(
    world: World, dataset: FramesDataset, settings: InferenceConfig, policy: Policy, *, trained_on: bool
) -> Evaluation:
    """Run the test. On a CPU the same arguments give the same numbers, bit for bit.

    Args:
        world: The models.
        dataset: The recording.
        settings: What the test is.
        policy: How it is measured.
        trained_on: The models were trained on this recording, without its held-out part.

    Raises:
        DatasetError: The recording is too short for one clip, or `sample_index` lies outside it.
        UsageError: `action_codes` are none of the models' codes.
        WorldloopError: The models generate what is no number.
        Cancelled: Nobody waits any more.
    """
    layout = Layout.of(settings)
    starts, held_out = clips_of(dataset, layout.length, settings.clips, trained_on=trained_on)
    clips = dataset.clips(starts, layout.length)
    with_actions = settings.use_actions and world.with_actions
    inferred = inferred_codes(world, clips, layout)
    told = told_codes(world, inferred, layout, settings) if with_actions else None
    decoding = Decoding(settings.decode_steps, settings.temperature, settings.teacher_forced, settings.seed)
    standard, of_standard = _standard(world, dataset, settings, layout, decoding, with_actions=with_actions)
    predicted = world.rollout(clips, told, layout, decoding)
    if not (np.isfinite(predicted).all() and np.isfinite(of_standard).all()):
        raise WorldloopError(
            "the generated frames are not all finite: the dynamics or the tokenizer diverged"
        )
    used = codes_in_use(world, dataset, held_out=held_out)
    real = clips[:, : layout.context + layout.generated]
    train = dataset.frames[: dataset.train_frames]
    target = _pixels(real[:, layout.context :])
    persistence = _persistence(real, layout, teacher_forced=settings.teacher_forced)
    numbers = {
        "actions": settings.actions if with_actions else "none",
        "gated_by": "mse" if settings.sample_index is None else "mse_standard",
        "frames_expected": predicted.shape[0] * layout.generated,
        "frames_inferred": predicted.shape[0] * predicted.shape[1],
        "clips": len(clips),
        "held_out": held_out,
        "actions_in_use": len(used),
        "actions_total": world.actions_total,
        "mse_standard": metrics.mse_with_context(
            float(metrics.frame_mse(of_standard, _pixels(standard[:, layout.context :])).mean()),
            context=layout.context,
            generated=layout.generated,
        ),
        **quality(predicted, target, persistence, mean_frame(train)),
        **familiarity(_seen(train, real[:, layout.context :])),
        **ceiling(_reconstruction(world, clips, layout), target),
    }
    if with_actions:
        numbers |= _steering(world, clips, inferred, used, layout, decoding, policy.action_seeds)
    shown = (real, predicted) if settings.sample_index is None else (standard, of_standard)
    return Evaluation(numbers, *shown)


def clips_of(dataset: FramesDataset, length: int, clips: int, *, trained_on: bool) -> tuple[Indices, bool]:
    """First frames of the clips to test on, spread over the held-out part or else over the whole file.

    Args:
        dataset: The recording.
        length: Frames of a clip.
        clips: Clips wanted.
        trained_on: The models were trained on this recording, without its held-out part.

    Returns:
        int64 [K], and whether the clips are held out.

    Raises:
        DatasetError: The recording is too short for one clip.
    """
    span = span_of(length, dataset.stride)
    if trained_on:
        starts = clip_starts(dataset.held_out, span, clips)
        if len(starts):
            return starts, True
    count = len(dataset.frames)
    starts = clip_starts(range(count), span, clips)
    if not len(starts):
        raise DatasetError(
            f"{dataset.path}: has {count} frames, but a clip of {length} frames at stride "
            f"{dataset.stride} spans {span}. Record more frames or lower inference.generation_steps"
        )
    return starts, False


def _persistence(real: Frames, layout: Layout, *, teacher_forced: bool) -> Images:
    """The last frame that the model was given, for each frame it generated."""
    frames = np.arange(layout.generated)
    given = layout.context - 1 + (frames // layout.horizon * layout.horizon if teacher_forced else 0 * frames)
    return _pixels(real[:, given])


def _pixels(frames: Frames) -> Images:
    return (frames / 255.0).astype(np.float32)


def _seen(train: Frames, targets: Frames) -> npt.NDArray[np.bool_]:
    """Which frames, [K, G], occur exactly in the training part."""
    wanted = [[frame_digest(frame) for frame in clip] for clip in targets]
    left = {digest for clip in wanted for digest in clip}
    for block in blocks(train):
        left.difference_update(frame_digest(frame) for frame in block)
        if not left:
            break
    return np.array([[digest not in left for digest in clip] for clip in wanted])


def _reconstruction(world: World, clips: Frames, layout: Layout) -> Images:
    """What the tokenizer makes of the frames to be generated, each at the end of its step's window."""
    shown = [
        world.reconstruct(clips[:, layout.window(step)])[:, -layout.horizon :] for step in range(layout.steps)
    ]
    return np.concatenate(shown, axis=1)[:, : layout.generated]


def _steering(
    world: World,
    clips: Frames,
    inferred: Sequence[Indices],
    used: Indices,
    layout: Layout,
    decoding: Decoding,
    seeds: int,
) -> dict[str, Any]:
    """How much worse the first frames get when the actions are drawn at random from those in use."""
    short = Layout(layout.context, layout.horizon, min(DELTA_FRAME, layout.generated))
    argmax = Decoding(decoding.steps, 0.0, decoding.teacher_forced, decoding.seed)
    target = _pixels(clips[:, short.context : short.context + short.generated])

    def psnr(codes: Sequence[Indices]) -> metrics.Array:
        return metrics.frame_psnr(metrics.frame_mse(world.rollout(clips, codes, short, argmax), target))

    guesses = [guessed_codes(inferred, used, short, decoding.seed + seed) for seed in range(seeds)]
    return steering(psnr(inferred), np.mean([psnr(codes) for codes in guesses], axis=0))


def _standard(
    world: World,
    dataset: FramesDataset,
    settings: InferenceConfig,
    layout: Layout,
    decoding: Decoding,
    *,
    with_actions: bool,
) -> tuple[Frames, Images]:
    """The reference's test: one clip, [1, L, H, W, 3], and what random actions make of it, [1, G, ...]."""
    span = span_of(layout.length, dataset.stride)
    start = standard_start(len(dataset.frames), span, sample_index=settings.sample_index, seed=settings.seed)
    if start is None:
        raise DatasetError(
            f"{dataset.path}: sample_index {settings.sample_index} is no first frame of a clip; "
            f"clips begin at 0 .. {len(dataset.frames) - span}"
        )
    clip = dataset.clips([start], layout.length)
    table = random_codes(np.arange(world.actions_total), (1, layout.length - 1), settings.seed)
    codes = [table[:, layout.transitions(step)] for step in range(layout.steps)]
    predicted = world.rollout(clip, codes if with_actions else None, layout, decoding)
    return clip[:, : layout.context + layout.generated], predicted
