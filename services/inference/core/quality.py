"""The numbers of a test that pixels alone decide, in total and at each generated frame.

Shapes: K clips, G generated frames, H, W pixels, 3 colours; floats in [0, 1].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from services.inference.core import intervals, metrics
from services.inference.core.intervals import ERROR, SIMILARITY, Interval
from services.inference.core.metrics import Array


def quality(predicted: Array, target: Array, persistence: Array, mean: Array) -> dict[str, Any]:
    """How good predictions are, against the truth and against doing nothing.

    Args:
        predicted: [K, G, H, W, 3].
        target: What really came.
        persistence: The last frame that the model was given, for each frame it generated.
        mean: The mean frame of the training part, [H, W, 3].

    Returns:
        Fields of `InferenceDone`.
    """
    mse, ssim = metrics.frame_mse(predicted, target), metrics.frame_ssim(predicted, target)
    psnr = metrics.frame_psnr(mse)
    idle, still = metrics.frame_mse(persistence, target), metrics.frame_mse(mean, target)
    total, idle_total = float(mse.mean()), float(idle.mean())
    of_clips, idle_of_clips = mse.mean(axis=1), idle.mean(axis=1)
    return {
        "mse": total,
        **limits("mse", intervals.interval95(of_clips, ERROR)),
        "mse_per_frame": mse.mean(axis=0).tolist(),
        "persistence_mse": idle_total,
        "persistence_per_frame": idle.mean(axis=0).tolist(),
        "mean_frame_mse": float(still.mean()),
        "mean_frame_per_frame": still.mean(axis=0).tolist(),
        "skill": metrics.skill(total, idle_total),
        **limits("skill", intervals.skill_interval95(of_clips, idle_of_clips)),
        "skill_per_frame": metrics.skills(mse.mean(axis=0), idle.mean(axis=0)),
        "mean_frame_skill": metrics.skill(float(still.mean()), idle_total),
        "psnr": float(psnr.mean()),
        **limits("psnr", intervals.interval95(psnr.mean(axis=1))),
        "psnr_per_frame": psnr.mean(axis=0).tolist(),
        "ssim": float(ssim.mean()),
        **limits("ssim", intervals.interval95(ssim.mean(axis=1), SIMILARITY)),
        "ssim_per_frame": ssim.mean(axis=0).tolist(),
        "motion_ratio": metrics.motion_ratio(predicted, target),
        "motion_ratio_per_frame": metrics.motion_ratios(predicted, target),
        "intervals_per_frame": {
            "mse": intervals.per_frame(mse, ERROR),
            "skill": intervals.skill_per_frame(mse, idle),
            "psnr": intervals.per_frame(psnr),
            "ssim": intervals.per_frame(ssim, SIMILARITY),
        },
    }


def steering(obeyed: Array, guessed: Array) -> dict[str, Any]:
    """Controllability: how much better the model is told the real actions than others (Genie's delta PSNR).

    Args:
        obeyed: PSNR with the inferred actions, [K, G], dB.
        guessed: The mean PSNR with random ones.

    Returns:
        Fields of `InferenceDone`; the number is that of the last frame.
    """
    gain = obeyed - guessed
    return {
        "delta_psnr": float(gain[:, -1].mean()),
        **limits("delta_psnr", intervals.interval95(gain[:, -1])),
        "delta_psnr_per_frame": gain.mean(axis=0).tolist(),
    }


def ceiling(shown: Array, target: Array) -> dict[str, Any]:
    """How well the tokenizer alone shows the frames that were to be generated."""
    mse = metrics.frame_mse(shown, target)
    return {
        "tokenizer_mse": float(mse.mean()),
        "tokenizer_psnr": float(metrics.frame_psnr(mse).mean()),
        "tokenizer_per_frame": mse.mean(axis=0).tolist(),
    }


def familiarity(seen: np.ndarray) -> dict[str, Any]:
    """How many of the frames, bool [K, G], the training part holds too."""
    return {"seen_share": float(seen.mean()), "seen_per_frame": seen.mean(axis=0).tolist()}


def limits(name: str, interval: Interval | None) -> dict[str, float | None]:
    """An interval as the two numbers that a policy can require."""
    low, high = (None, None) if interval is None else interval
    return {f"{name}_low": low, f"{name}_high": high}
