"""The standard inference test: clips that the model generates again, and every number about it.

Shapes: K clips, L frames of a clip, G generated frames, H, W pixels, 3 colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.inference.config import Policy
from services.inference.core import metrics
from services.inference.core.clips import Indices, Layout, clip_starts, random_codes, standard_start
from services.inference.world import Decoding, Images, World
from shared.config import InferenceConfig
from shared.datasets.frames import FramesDataset, span_of
from shared.datasets.inspection import frame_digest, mean_frame
from shared.datasets.mapping import Frames, blocks
from shared.errors import DatasetError, WorldloopError

DELTA_FRAME = 4
"""Generated frame at which delta-PSNR is taken (Genie's t = 4)."""
ACTION_WINDOWS = 256
"""Windows, at most, in which the codes in use are counted."""
ACTION_BATCH = 32


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of the test."""

    numbers: dict[str, Any]
    """Fields of `InferenceDone`."""
    real: Frames
    """The clips, uint8 [K, L, H, W, 3]; of L, context and generated frames."""
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
        WorldloopError: The models generate what is no number.
        Cancelled: Nobody waits any more.
    """
    layout = Layout.of(settings)
    starts, held_out = _starts(dataset, layout, settings.clips, trained_on=trained_on)
    clips = dataset.clips(starts, layout.length)
    with_actions = settings.use_actions and world.with_actions
    inferred = _inferred_codes(world, clips, layout)
    decoding = Decoding(settings.decode_steps, settings.temperature, settings.teacher_forced, settings.seed)
    predicted = world.rollout(clips, inferred if with_actions else None, layout, decoding)
    if not np.isfinite(predicted).all():
        raise WorldloopError(
            "the generated frames are not all finite: the dynamics or the tokenizer diverged"
        )
    used = _codes_in_use(world, dataset, held_out=held_out)
    real = clips[:, : layout.context + layout.generated]
    numbers = {
        "frames_expected": predicted.shape[0] * layout.generated,
        "frames_inferred": predicted.shape[0] * predicted.shape[1],
        "clips": len(clips),
        "held_out": held_out,
        "actions_in_use": len(used),
        "actions_total": world.actions_total,
        "mse_standard": _standard_mse(world, dataset, settings, layout, decoding, with_actions=with_actions),
        "delta_psnr": _delta_psnr(world, clips, inferred, used, layout, decoding, policy.action_seeds)
        if with_actions
        else None,
        **_quality(predicted, real, dataset, layout, teacher_forced=settings.teacher_forced),
        **_ceiling(world, clips, layout),
    }
    return Evaluation(numbers, real, predicted)


def _starts(dataset: FramesDataset, layout: Layout, clips: int, *, trained_on: bool) -> tuple[Indices, bool]:
    span = span_of(layout.length, dataset.stride)
    if trained_on:
        starts = clip_starts(dataset.held_out, span, clips)
        if len(starts):
            return starts, True
    count = len(dataset.frames)
    starts = clip_starts(range(count), span, clips)
    if not len(starts):
        raise DatasetError(
            f"{dataset.path}: has {count} frames, but a clip of {layout.length} frames at stride "
            f"{dataset.stride} spans {span}. Record more frames or lower inference.generation_steps"
        )
    return starts, False


def _inferred_codes(world: World, clips: Frames, layout: Layout) -> list[Indices]:
    """Per step, actions as training saw them: inferred from the frames of the step's own window."""
    return [world.action_codes(clips[:, layout.window(step)]) for step in range(layout.steps)]


def _random_codes(inferred: Sequence[Indices], codes: Indices, layout: Layout, seed: int) -> list[Indices]:
    """Per step, random actions; those between the frames of the real context stay as they are."""
    clips = len(inferred[0])
    table = random_codes(codes, (clips, layout.length - 1), seed)
    table[:, : layout.context - 1] = inferred[0][:, : layout.context - 1]
    return [table[:, layout.transitions(step)] for step in range(layout.steps)]


def _codes_in_use(world: World, dataset: FramesDataset, *, held_out: bool) -> Indices:
    """Codes that occur in the held-out part, or in the whole file if nothing is held out, rising."""
    part = dataset.held_out if held_out else range(len(dataset.frames))
    length = min(dataset.context_length, (len(part) - 1) // dataset.stride + 1)
    starts = clip_starts(part, span_of(length, dataset.stride), ACTION_WINDOWS)
    batches = (starts[at : at + ACTION_BATCH] for at in range(0, len(starts), ACTION_BATCH))
    return np.unique(
        np.concatenate([world.action_codes(dataset.clips(batch, length)).ravel() for batch in batches])
    )


def _quality(
    predicted: Images, real: Frames, dataset: FramesDataset, layout: Layout, *, teacher_forced: bool
) -> dict[str, Any]:
    target = (real[:, layout.context :] / 255.0).astype(np.float32)
    mse = metrics.frame_mse(predicted, target)
    psnr = metrics.frame_psnr(mse)
    train = dataset.frames[: dataset.train_frames]
    persistence = metrics.frame_mse(_persistence(real, layout, teacher_forced=teacher_forced), target)
    mean_mse = float(metrics.frame_mse(mean_frame(train), target).mean())
    interval = metrics.interval95(mse.mean(axis=1))
    seen = _seen(train, real[:, layout.context :])
    return {
        "mse": float(mse.mean()),
        "mse_low": interval[0] if interval else None,
        "mse_high": interval[1] if interval else None,
        "mse_per_frame": mse.mean(axis=0).tolist(),
        "persistence_mse": float(persistence.mean()),
        "persistence_per_frame": persistence.mean(axis=0).tolist(),
        "mean_frame_mse": mean_mse,
        "skill": metrics.skill(float(mse.mean()), float(persistence.mean())),
        "skill_per_frame": metrics.skills(mse.mean(axis=0), persistence.mean(axis=0)),
        "mean_frame_skill": metrics.skill(mean_mse, float(persistence.mean())),
        "psnr": float(psnr.mean()),
        "psnr_per_frame": psnr.mean(axis=0).tolist(),
        "ssim": float(metrics.frame_ssim(predicted, target).mean()),
        "motion_ratio": metrics.motion_ratio(predicted, target),
        "seen_share": seen,
    }


def _persistence(real: Frames, layout: Layout, *, teacher_forced: bool) -> Images:
    """The last frame that the model was given, for each frame it generated."""
    frames = np.arange(layout.generated)
    given = layout.context - 1 + (frames // layout.horizon * layout.horizon if teacher_forced else 0 * frames)
    return (real[:, given] / 255.0).astype(np.float32)


def _seen(train: Frames, targets: Frames) -> float:
    wanted = [frame_digest(frame) for clip in targets for frame in clip]
    left = set(wanted)
    for block in blocks(train):
        left.difference_update(frame_digest(frame) for frame in block)
        if not left:
            break
    return sum(digest not in left for digest in wanted) / len(wanted)


def _ceiling(world: World, clips: Frames, layout: Layout) -> dict[str, float]:
    """How well the tokenizer alone shows the frames to be generated, each at the end of its step's window."""
    shown = [
        world.reconstruct(clips[:, layout.window(step)])[:, -layout.horizon :] for step in range(layout.steps)
    ]
    target = clips[:, layout.context : layout.context + layout.generated] / 255.0
    mse = metrics.frame_mse(np.concatenate(shown, axis=1)[:, : layout.generated], target)
    return {"tokenizer_mse": float(mse.mean()), "tokenizer_psnr": float(metrics.frame_psnr(mse).mean())}


def _delta_psnr(
    world: World,
    clips: Frames,
    inferred: Sequence[Indices],
    used: Indices,
    layout: Layout,
    decoding: Decoding,
    seeds: int,
) -> float:
    """How much worse the fourth frame gets when the actions are drawn at random from those in use, dB."""
    short = Layout(layout.context, layout.horizon, min(DELTA_FRAME, layout.generated))
    argmax = Decoding(decoding.steps, 0.0, decoding.teacher_forced, decoding.seed)
    target = clips[:, short.context + short.generated - 1] / 255.0

    def psnr(codes: Sequence[Indices]) -> float:
        last = world.rollout(clips, codes, short, argmax)[:, -1]
        return float(metrics.frame_psnr(metrics.frame_mse(last, target)).mean())

    guesses = [_random_codes(inferred, used, short, decoding.seed + seed) for seed in range(seeds)]
    return psnr(inferred) - float(np.mean([psnr(codes) for codes in guesses]))


def _standard_mse(
    world: World,
    dataset: FramesDataset,
    settings: InferenceConfig,
    layout: Layout,
    decoding: Decoding,
    *,
    with_actions: bool,
) -> float | None:
    """The reference's number: one clip, random actions, the copied context averaged in."""
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
    target = clip[:, layout.context : layout.context + layout.generated] / 255.0
    mse = float(metrics.frame_mse(predicted, target).mean())
    return metrics.mse_with_context(mse, context=layout.context, generated=layout.generated)
