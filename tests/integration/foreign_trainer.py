"""A training script that is not ours: writes rows to a `.wandb` file, checkpoints and sheets until ended."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import numpy as np

from shared.sheets import NAMES, write_sheet
from tests.unit.wandb_log import Log, history, run

EVERY = 40


def main() -> None:
    """Arguments: the directory with `results/` and `wandb/`, the run's name, a checkpoint to copy."""
    root, name, checkpoint = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    stage = root / "results" / name / "dynamics"
    wandb = root / "wandb" / "offline-run-20260101_000005-abcd" / "run-abcd.wandb"
    wandb.parent.mkdir(parents=True)
    frames = np.random.default_rng(0).integers(0, 255, (2, 4, 8, 8, 3), dtype=np.uint8)
    frames = frames.repeat(8, axis=2).repeat(8, axis=3)
    log, step = Log(), 0
    with wandb.open("wb") as stream:
        stream.write(log.header() + log.record(run(1, "abcd", f"dynamics_{name}", {"n_updates": 10**6})))
        while True:
            loss = 2.0 + 4.0 * 0.99**step
            stream.write(log.record(history(step, step, {"train/loss": loss, "_runtime": step * 0.05})))
            stream.flush()
            if step % EVERY == EVERY - 1:
                target = stage / "checkpoints" / f"dynamics_step_{step}"
                shutil.copytree(checkpoint, target, copy_function=shutil.copyfile)
                write_sheet(stage / "visualizations" / f"{NAMES['dynamics']}_step_{step}.png", frames, frames)
            step += 1
            time.sleep(0.05)


if __name__ == "__main__":
    main()
