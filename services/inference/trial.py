"""One inference test of a run, from the files that a command names to the event that answers it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch

from services.inference.config import Policy
from services.inference.evaluation import Evaluation, evaluate
from services.inference.picture import write_picture
from services.inference.world import Cancelled, World
from shared.bundle import Bundle
from shared.config import InferenceConfig, RunConfig
from shared.datasets.frames import FramesDataset
from shared.errors import WorldloopError
from shared.events import EvaluateInference, InferenceDone, RunSpec

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def run_trial(
    command: EvaluateInference,
    spec: RunSpec,
    bundle: Bundle,
    *,
    cache_dir: Path,
    now: datetime,
    cancelled: Callable[[], bool],
) -> InferenceDone:
    """Run the test and say what came of it; whatever goes wrong becomes the answer's `problem`.

    Args:
        command: What to test.
        spec: The run.
        bundle: Its directory; the picture goes there.
        cache_dir: Where compressed recordings are unpacked.
        now: Goes into the picture's name.
        cancelled: Whether to give up, asked often.

    Raises:
        Cancelled: It was.
    """
    began = time.monotonic()
    fields: dict[str, Any]
    try:
        fields = _measure(command, spec, bundle, cache_dir=cache_dir, now=now, cancelled=cancelled)
    except Cancelled:
        raise
    except WorldloopError as error:
        log.warning("the inference test failed", problem=str(error))
        fields = {"ok": False, "problem": str(error)}
    except (MemoryError, torch.OutOfMemoryError) as error:
        log.exception("the inference test ran out of memory")
        fields = {"ok": False, "problem": f"out of memory: {error}. Lower inference.clips"}
    except Exception as error:
        log.exception("the inference test crashed")
        fields = {"ok": False, "problem": f"{type(error).__name__}: {error}"}
    done = {
        "run_id": command.run_id,
        "inference_try": command.inference_try,
        "retry": command.retry,
        "mode": "teacher-forced" if command.settings.get("teacher_forced") else "autoregressive",
        "checkpoints": command.checkpoints,
        "seconds": time.monotonic() - began,
    }
    return InferenceDone.model_validate(done | fields)


def _measure(
    command: EvaluateInference,
    spec: RunSpec,
    bundle: Bundle,
    *,
    cache_dir: Path,
    now: datetime,
    cancelled: Callable[[], bool],
) -> dict[str, Any]:
    settings = InferenceConfig.model_validate(command.settings)
    training = RunConfig.model_validate(spec.configuration).training
    policy = Policy.model_validate(spec.policy.get("inference", {}))
    directories = {stage: bundle.resolve(path) for stage, path in command.checkpoints.items()}
    world = World.load(directories, settings.device, cancelled)
    dataset = FramesDataset.configured(
        Path(training.dataset), training, cache_dir=cache_dir, frame_size=world.frame_size
    )
    found = evaluate(world, dataset, settings, policy, trained_on=world.held_out_from(dataset))
    path = _picture_path(bundle, now)
    _draw(path, found, command, settings, policy)
    return {"ok": True, "picture": bundle.relative(path), **found.numbers}


def _picture_path(bundle: Bundle, now: datetime) -> Path:
    stem = f"inference_results_gt_vs_pred_{now:%Y%m%d_%H%M%S}"
    path, count = bundle.inference_results / f"{stem}.png", 1
    while path.exists():
        count += 1
        path = path.with_name(f"{stem}_{count}.png")
    return path


def _draw(
    path: Path, found: Evaluation, command: EvaluateInference, settings: InferenceConfig, policy: Policy
) -> None:
    clips = len(found.real)
    shown = np.linspace(0, clips - 1, min(policy.picture_clips, clips)).round().astype(int)
    numbers = {key: found.numbers[key] for key in ("mse", "persistence_mse", "skill", "psnr", "motion_ratio")}
    measured = "   ".join(
        f"{key} {'-' if value is None else format(value, '.4g')}" for key, value in numbers.items()
    )
    write_picture(
        path,
        found.real[shown],
        np.rint(found.predicted[shown] * 255).astype(np.uint8),
        context=settings.context_window,
        title=f"{command.run_id}, inference try {command.inference_try}:   {measured}",
    )
