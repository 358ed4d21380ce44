"""How good a world model gets in a given time: records a game, trains the three stages, measures them.

    python benchmarks/quality.py Riverraid [--minutes 15] [--seed 0] [KEY=VALUE ...]
    python benchmarks/quality.py Riverraid --latent-seeds 5

The game is any of ALE's, by its name. Model and settings are those of a profile (`demo`); KEY=VALUE changes
them as in `worldloop train`. One process trains with all cores, through the trainer's own sessions and
chunks. The minutes are wall-clock time for the training of the three stages, shared out by `SHARES`: each
stage's speed is measured first, then its schedule is laid over the updates that fit into what is left.

Evaluation is the inference service's, on held-out clips, actions inferred, temperature 0. `action_ami` is the
adjusted mutual information (Vinh, Epps and Bailey 2010) between the codes of held-out transitions and the
actions that were really played.

With `--latent-seeds N` only the latent actions are trained, N times with different seeds, and it is shown
how many codes they use and how evenly.

Last line: one JSON object with skill, mean_frame_skill, motion_ratio, delta_psnr_db, tokenizer_psnr_db,
action_ami and more.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_mutual_info_score

from services.commands.configuration.files import find_configs
from services.commands.configuration.resolve import assignments, resolve
from services.inference.config import Policy
from services.inference.core.clips import Indices, clip_starts
from services.inference.evaluation import evaluate
from services.inference.world import World
from services.trainer.core.launch import tuning
from services.trainer.wire import Run
from services.trainer.worker.chunk import Chunk
from services.trainer.worker.ranks import Ranks
from services.trainer.worker.session import Session
from shared.bundle import Bundle
from shared.config import RunConfig, StageConfig, TrainingConfig
from shared.datasets.frames import FramesDataset, span_of
from shared.datasets.mapping import Frames
from shared.datasets.recording import record
from shared.errors import WorldloopError
from shared.events import STAGES, ChunkPlan, Schedule, Stage
from shared.worldmodel.build import model_of
from shared.worldmodel.checkpoints import load_checkpoint
from shared.worldmodel.frames import to_float
from shared.worldmodel.latent_actions import LatentActions

SHARES: dict[Stage, float] = {"video_tokenizer": 0.35, "latent_actions": 0.15, "dynamics": 0.5}
"""Of the minutes."""
WARM_UP_UPDATES, MEASURED_UPDATES = 10, 40
"""Updates by which a stage's speed is measured, and the ones before that do not count."""
CLIPS = 64
"""Held-out clips that are generated again."""
ACTION_WINDOWS = 1500
"""Held-out windows, at most, whose codes are compared with the true actions."""
TUNED = "WORLDLOOP_BENCHMARK_TUNED"
"""In the environment of the process that measures: what its allocator reads at its start is in place."""


def main() -> None:
    """Record, train, measure; print the table, then the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("game", help="name of an ALE game, such as Riverraid")
    parser.add_argument("--minutes", type=float, default=15.0, help="wall-clock time of the training")
    parser.add_argument("--frames", type=int, default=10000, help="frames to record")
    parser.add_argument("--seed", type=int, default=0, help="of recording and training")
    parser.add_argument("--profile", default="demo")
    parser.add_argument(
        "--latent-seeds", type=int, default=0, metavar="N", help="latent actions alone, with N seeds"
    )
    parser.add_argument("--directory", type=Path, help="keep the recording and the checkpoints here")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    if TUNED not in os.environ:
        cores = len(os.sched_getaffinity(0))
        os.execve(
            sys.executable,
            [sys.executable, *sys.argv],
            os.environ | tuning("cpu", 1, cores) | {TUNED: "1"},
        )
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        with tempfile.TemporaryDirectory() as temporary:
            result = measure(arguments, arguments.directory or Path(temporary))
    except WorldloopError as error:
        sys.exit(str(error))
    print(f"{'figure':<26}{'value':>12}")
    for name, value in result.items():
        if isinstance(value, int | float):
            print(f"{name:<26}{value:>12.4g}")
    print(json.dumps(result))


def measure(arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """All numbers of one game.

    Raises:
        WorldloopError: There is no such game, or a setting cannot be used.
    """
    directory.mkdir(parents=True, exist_ok=True)
    recording = directory / f"{arguments.game.lower()}_frames.h5"
    environment = f"ALE/{arguments.game}-v5"
    record(environment, recording, frames=arguments.frames, seed=arguments.seed, overwrite=True)
    fixed = [f"dataset={recording}", f"seed={arguments.seed}"]
    flags = assignments([*fixed, *arguments.settings])
    config = resolve(find_configs(None), arguments.profile, flags=flags).run
    if arguments.latent_seeds:
        return latent_seeds(arguments, config, directory)
    trained: dict[Stage, Trained] = {}
    for stage in STAGES:
        before: dict[Stage, str] = {name: each.checkpoint for name, each in trained.items()}
        seconds = 60 * arguments.minutes * SHARES[stage]
        trained[stage] = train(stage, config.stage(stage), directory, seconds, before)
        print(f"{stage}: {trained[stage].updates} updates in {trained[stage].seconds:.0f} s", flush=True)
    return {
        "game": arguments.game,
        "minutes": sum(each.seconds for each in trained.values()) / 60,
        "updates": {stage: each.updates for stage, each in trained.items()},
        **evaluation(config, directory, {stage: each.checkpoint for stage, each in trained.items()}),
    }


# --- training ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a stage."""

    checkpoint: str
    """In the bundle."""
    updates: int
    seconds: float


def train(
    stage: Stage, config: StageConfig, directory: Path, seconds: float, upstream: dict[Stage, str]
) -> Trained:
    """Train a stage for a time, in this process.

    Args:
        stage: Which.
        config: Its configuration; `n_updates` and `log_interval` follow from the time.
        directory: Bundle and cache.
        seconds: Wall-clock time, the measuring of the speed included.
        upstream: Checkpoints of earlier stages.
    """
    begun = time.perf_counter()
    warm_up = _chunk(stage, config, directory, WARM_UP_UPDATES, upstream)
    for window in range(warm_up.session.dataset.train_windows):
        warm_up.session.task.inputs(np.array([window]), torch.Generator())  # what is kept is computed here
    warm_up.train()
    measured = _chunk(stage, config, directory, MEASURED_UPDATES, upstream)
    before = time.perf_counter()
    measured.train()
    now = time.perf_counter()
    updates = max(MEASURED_UPDATES, int((begun + seconds - now) / (now - before) * MEASURED_UPDATES))
    _chunk(stage, config, directory, updates, upstream).train()
    (checkpoint,) = bundle_in(directory).checkpoints(stage).glob(f"*_step_{updates - 1}")
    return Trained(bundle_in(directory).relative(checkpoint), updates, time.perf_counter() - begun)


def bundle_in(directory: Path) -> Bundle:
    """The bundle that checkpoints go to."""
    return Bundle(directory / "run", "quality")


def _chunk(
    stage: Stage, config: StageConfig, directory: Path, updates: int, upstream: dict[Stage, str]
) -> Chunk:
    windows = config.effective_batch
    config = config.model_copy(
        update={
            "batch_size_per_gpu": windows,
            "gradient_accumulation_steps": 1,
            "nproc_per_node": 1,
            "n_updates": updates,
            "log_interval": updates,
        }
    )
    plan = ChunkPlan(
        stage=stage,
        attempt=1,
        start_step=0,
        target_step=updates,
        schedule=Schedule(peak=config.learning_rate, start_step=0, end_step=updates),
        parameters=config.model_dump(mode="json"),
        upstream=upstream,
    )
    bundle = bundle_in(directory)
    run = Run(
        run_id="quality",
        run_name=bundle.run_name,
        bundle=str(bundle.root),
        plan=plan,
        launch=1,
        resume_from=None,
        resume_step=0,
    )
    return Chunk(Session(Ranks(cuda=config.device == "cuda"), run, directory / "cache"), run, desk=None)


# --- measuring --------------------------------------------------------------------------------------------


def evaluation(config: RunConfig, directory: Path, checkpoints: dict[Stage, str]) -> dict[str, Any]:
    """The numbers of the trained models on held-out clips."""
    world = World.load(
        {stage: bundle_in(directory).resolve(path) for stage, path in checkpoints.items()},
        config.training.device,
    )
    dataset = open_recording(config.training, directory)
    settings = config.inference.model_copy(update={"clips": CLIPS, "temperature": 0.0})
    codes, played = held_out_codes(world.action_codes, dataset)
    found = evaluate(world, dataset, settings, Policy(), trained_on=world.held_out_from(dataset)).numbers
    return {
        "skill": found["skill"],
        "mean_frame_skill": found["mean_frame_skill"],
        "motion_ratio": found["motion_ratio"],
        "delta_psnr_db": found["delta_psnr"],
        "tokenizer_psnr_db": -10 * math.log10(found["tokenizer_mse"]),
        "action_ami": float(adjusted_mutual_info_score(played, codes)),
        "mse": found["mse"],
        "mse_low": found["mse_low"],
        "mse_high": found["mse_high"],
        "persistence_mse": found["persistence_mse"],
        "tokenizer_mse": found["tokenizer_mse"],
        "psnr_db": found["psnr"],
        "ssim": found["ssim"],
        "seen_share": found["seen_share"],
        "actions_in_use": found["actions_in_use"],
        "held_out": found["held_out"],
        "skill_per_frame": found["skill_per_frame"],
    }


def open_recording(training: TrainingConfig, directory: Path) -> FramesDataset:
    """The recording, as training sees it."""
    return FramesDataset.configured(
        Path(training.dataset), training, cache_dir=directory / "cache", frame_size=training.frame_size
    )


def held_out_codes(codes: Callable[[Frames], Indices], dataset: FramesDataset) -> tuple[Indices, Indices]:
    """Codes of the transitions of held-out windows, [N], and the actions that were played there, [N]."""
    starts = clip_starts(dataset.held_out, span_of(dataset.context_length, dataset.stride), ACTION_WINDOWS)
    batches = np.array_split(starts, math.ceil(len(starts) / 64))
    found = np.concatenate([codes(dataset.clips(batch, dataset.context_length)) for batch in batches])
    assert dataset.actions is not None
    played = dataset.actions[starts[:, None] + dataset.stride * np.arange(1, dataset.context_length)]
    return found.ravel(), played.ravel()


def latent_seeds(arguments: argparse.Namespace, config: RunConfig, directory: Path) -> dict[str, Any]:
    """Whether the latent actions collapse: their use of the codes on held-out windows, seed by seed."""
    rows: list[dict[str, float]] = []
    seconds = 60 * arguments.minutes * SHARES["latent_actions"]
    for seed in range(arguments.latent_seeds):
        stage = config.stage("latent_actions").model_copy(update={"seed": seed})
        trained = train("latent_actions", stage, directory / f"seed_{seed}", seconds, {})
        checkpoint = load_checkpoint(bundle_in(directory / f"seed_{seed}").resolve(trained.checkpoint))
        model = model_of(checkpoint)
        assert isinstance(model, LatentActions)

        def codes_of(frames: Frames, model: LatentActions = model) -> Indices:
            codes: Indices = model.actions(to_float(torch.from_numpy(frames))).numpy()
            return codes

        codes, played = held_out_codes(codes_of, open_recording(config.training, directory))
        shares = np.bincount(codes, minlength=stage.n_actions) / len(codes)
        rows.append(
            {
                "seed": seed,
                "updates": trained.updates,
                "unique_actions": int((shares > 0).sum()),
                "entropy_nats": float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()),
                "action_ami": float(adjusted_mutual_info_score(played, codes)),
            }
        )
        print(rows[-1], flush=True)
    return {
        "game": arguments.game,
        "latent_seeds": rows,
        "fewest_actions": min(row["unique_actions"] for row in rows),
        "lowest_entropy_nats": min(row["entropy_nats"] for row in rows),
    }


if __name__ == "__main__":
    main()
