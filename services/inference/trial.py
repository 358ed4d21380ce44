"""One inference test of a run, from the files that a command names to the event that answers it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
import torch
from pydantic import ValidationError

from services.inference.artifacts import write_artifacts
from services.inference.checkout import run_checkout
from services.inference.config import Policy
from services.inference.evaluation import evaluate
from services.inference.world import Cancelled, World
from shared.bundle import Bundle
from shared.config import InferenceConfig, RunConfig
from shared.datasets.frames import FramesDataset
from shared.datasets.names import found_in
from shared.errors import BundleError, WorldloopError, complaints
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
    data_dir: Path | None = None,
) -> InferenceDone:
    """Run the test and say what came of it; whatever goes wrong becomes the answer's `problem`.

    Args:
        command: What to test.
        spec: The run.
        bundle: Its directory; the picture goes there.
        cache_dir: Where compressed recordings are unpacked.
        now: Goes into the picture's name.
        cancelled: Whether to give up, asked often.
        data_dir: Where recordings lie; none: under the path that the run names.

    Raises:
        Cancelled: It was.
    """
    began = time.monotonic()
    fields: dict[str, Any]
    try:
        fields = _measure(
            command, spec, bundle, cache_dir=cache_dir, data_dir=data_dir, now=now, cancelled=cancelled
        )
    except Cancelled:
        raise
    except WorldloopError as error:
        log.warning("the inference test failed", problem=str(error))
        fields = {"ok": False, "problem": str(error)}
    except ValidationError as error:
        problem = f"{error.title}: {complaints(error)[0]}"
        log.warning("the inference test cannot be run as asked", problem=problem)
        fields = {"ok": False, "problem": problem}
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
    data_dir: Path | None,
    now: datetime,
    cancelled: Callable[[], bool],
) -> dict[str, Any]:
    if (gone := bundle.gone()) is not None:
        raise BundleError(gone)
    if spec.checkout is not None and spec.checkout.inference == "checkout":
        return run_checkout(command, spec, bundle, cache_dir=cache_dir, cancelled=cancelled)
    settings = InferenceConfig.recorded(command.settings)
    training = RunConfig.recorded(spec.configuration).training
    policy = Policy.recorded(spec.policy.get("inference", {}))
    directories = {stage: bundle.resolve(path) for stage, path in command.checkpoints.items()}
    world = World.load(directories, settings.device, cancelled)
    dataset = FramesDataset.configured(
        found_in(data_dir, Path(training.dataset)),
        training,
        cache_dir=cache_dir,
        frame_size=world.frame_size,
    )
    found = evaluate(world, dataset, settings, policy, trained_on=world.held_out_from(dataset))
    files = write_artifacts(
        found,
        bundle.inference_results,
        now,
        title=f"{command.run_id}, inference try {command.inference_try}",
        context=settings.context_window,
        clips=policy.picture_clips,
    )
    if files.problem is not None:
        log.warning("the inference test has no film", problem=files.problem)
    paths = {"picture": files.picture, "video": files.video, "preview": files.preview}
    return {
        "ok": True,
        **{kind: bundle.relative(path) for kind, path in paths.items() if path is not None},
        "video_problem": files.problem,
        **found.numbers,
    }
