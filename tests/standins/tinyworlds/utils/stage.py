"""What the three stages have in common: a tiny model, checkpoints, sheets, W&B, and the ways they fail.

`STANDIN_FAIL` names failures, a comma list: exit, oom, nan, killed, hang, slow, no_checkpoint,
no_last_checkpoint, empty_optimizer, no_visualization, stale, wandb_off. They strike at update `STANDIN_AT` of
the launch (2 without; -1 is before anything is loaded). With `STANDIN_ONCE`, a file, they strike only while
that is not there. `STANDIN_CUDA` makes the machine one with GPUs: `device=cuda` trains on the CPU, several
ranks over gloo.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

TIME = "%Y_%m_%d_%H_%M_%S"
NAMES = {
    "video_tokenizer": "video_tokenizer_recon",
    "latent_actions": "reconstructions_latent_actions",
    "dynamics": "dynamics_prediction",
}


class Optimizer:
    """Plain steps, and a state in AdamW's form: `torch.optim` imports the compiler, a second a launch."""

    def __init__(self, groups: list[dict[str, Any]], args: Any) -> None:
        self.parameters = [each for group in groups for each in group["params"]]
        self.decays = [(group["weight_decay"], len(group["params"])) for group in groups]
        self.peak, self.total, self.steps = args.learning_rate, args.n_updates, 0
        self.average = [torch.zeros_like(each) for each in self.parameters]

    @property
    def rate(self) -> float:
        """A cosine over the launch's `n_updates`."""
        return float(self.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, self.steps / self.total))))

    def step(self) -> None:
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.average, strict=True):
                average.mul_(0.9).add_(parameter.grad, alpha=0.1)
                parameter.sub_(average, alpha=self.rate)
                parameter.grad = None
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        state = {
            i: {"step": torch.tensor(float(self.steps)), "exp_avg": each, "exp_avg_sq": each.square()}
            for i, each in enumerate(self.average)
        }
        first = 0
        groups: list[dict[str, Any]] = []
        for decay, number in self.decays:
            names = list(range(first, first + number))
            groups.append({"lr": self.rate, "weight_decay": decay, "params": names})
            first += number
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        for average, saved in zip(self.average, content["state"].values(), strict=True):
            average.copy_(saved["exp_avg"])


class Stage:
    def __init__(self, name: str, args: Any) -> None:
        self.name, self.args = name, args
        if args.device == "cuda" and "STANDIN_CUDA" not in os.environ:
            raise RuntimeError("Found no NVIDIA driver on your system.")
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        if self.world > 1:
            dist.init_process_group("gloo")
        self.rank = dist.get_rank() if self.world > 1 else 0
        self.is_main = self.rank == 0
        root = os.environ.get("NG_RUN_ROOT_DIR") or Path("results", time.strftime(TIME))
        self.checkpoints, self.pictures = (
            Path(root, name, each) for each in ("checkpoints", "visualizations")
        )
        for folder in (self.checkpoints, self.pictures):
            folder.mkdir(parents=True, exist_ok=True)
        self.fail = set(os.environ.get("STANDIN_FAIL", "").split(",")) - {""}
        self.at = int(os.environ.get("STANDIN_AT", "2"))
        once = os.environ.get("STANDIN_ONCE")
        if once and Path(once).exists():
            self.fail = set()
        self.once = once
        if self.at < 0:
            self._strike()
        self._check_upstream()
        self.model = _model(name, args)
        named = list(self.model.named_parameters())
        decay = [each for name, each in named if each.ndim > 1 and "norm" not in name]
        rest = [each for name, each in named if each.ndim == 1 or "norm" in name]
        groups = [{"params": decay, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
        self.optimizer = Optimizer(groups, args)
        self.resumed = -1
        if args.checkpoint:
            self._load(Path(args.checkpoint))
        self.made, self.loss = 0, float("nan")
        self.wandb: Any = None
        if args.use_wandb and self.is_main and "wandb_off" not in self.fail:
            import wandb

            self.wandb = wandb.init(project=args.wandb_project, name=f"{name}_{time.strftime(TIME)}")

    def restore_optimizer(self) -> None:
        """What the absolute dialect does, and the relative one does not."""
        if self.args.checkpoint:
            folder = Path(self.args.checkpoint)
            self.optimizer.load_state_dict(torch.load(folder / "optim_state_dict.pt"))
            state = torch.load(folder / "state.pt", weights_only=False)
            self.optimizer.steps = state["scheduler_state_dict"]["last_epoch"]

    def bar(self, steps: range) -> Any:
        """A progress bar in tqdm's form."""
        began = time.monotonic()
        for done, step in enumerate(steps, start=1):
            yield step
            if self.is_main:
                passed = f"00:{time.monotonic() - began:02.0f}"
                bar = f"{100 * done // len(steps):3d}%|###| {done}/{len(steps)} [{passed}<00:00]"
                print(f"\r{bar}", end="", file=sys.stderr, flush=True)

    def begin_update(self) -> None:
        if self.made == self.at:
            self._strike()
        if "slow" in self.fail:
            time.sleep(0.5)

    def forward(self) -> torch.Tensor:
        loss = 0.001 * torch.stack([each.square().mean() for each in self.model.parameters()]).sum()
        return loss * float("nan") if self._broken else loss

    def end_update(self, loss: torch.Tensor) -> None:
        if self.world > 1:
            for each in self.model.parameters():
                dist.all_reduce(each.grad)
        self.optimizer.step()
        self.made += 1
        self.loss = loss.item()

    def log(self, row: dict[str, float], i: int) -> None:
        if self.wandb is not None:
            row |= {"learning_rate/group_0": self.optimizer.rate}
            if self.name != "video_tokenizer":
                row |= {"action_entropy": 1.2, "unique_actions": 4}
            self.wandb.log(row, step=i)

    def save(self, i: int) -> None:
        if "no_checkpoint" in self.fail or ("no_last_checkpoint" in self.fail and self.made > self.at):
            return
        directory = self.checkpoints / f"{self.name}_step_{i}"
        if self.is_main:
            directory.mkdir(exist_ok=True)
            torch.save(self.model.state_dict(), directory / "model_state_dict.pt")
            torch.save(self.optimizer.state_dict(), directory / "optim_state_dict.pt")
            state = {
                "scheduler_state_dict": {"last_epoch": self.optimizer.steps}
                if self.name != "latent_actions"
                else None,
                "config": vars(self.args),
                "step": i,
                "timestamp": time.strftime(TIME),
            }
            torch.save(state, directory / "state.pt")
        self._barrier()
        if "empty_optimizer" in self.fail and self.rank == self.world - 1:
            torch.save({}, directory / "optim_state_dict.pt")
        self._barrier()

    def draw(self, i: int) -> None:
        if self.is_main and "no_visualization" not in self.fail:
            _sheet(self.name, self.pictures / f"{NAMES[self.name]}_step_{i}.png")
        print("\n Step", i, "Loss:", self.loss)

    def finish(self) -> None:
        if self.wandb is not None:
            self.wandb.finish()
        if self.world > 1:
            dist.destroy_process_group()

    @property
    def _broken(self) -> bool:
        return "nan" in self.fail and self.made >= self.at

    def _strike(self) -> None:
        if self.once and self.fail:
            Path(self.once).touch()
        if "exit" in self.fail:
            raise RuntimeError("the stand-in was told to fail")
        if "oom" in self.fail:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if "killed" in self.fail:
            os.kill(os.getpid(), 9)
        if "hang" in self.fail:
            time.sleep(600)
        if "stale" in self.fail and self.is_main:
            left = {**os.environ, "STANDIN_FAIL": "hang", "STANDIN_AT": "0", "WANDB_MODE": "disabled"}
            subprocess.Popen([sys.executable, *sys.argv], env=left, start_new_session=True)

    def _check_upstream(self) -> None:
        if self.name == "dynamics":
            for path in (self.args.video_tokenizer_path, self.args.latent_actions_path):
                if not path or not Path(path).is_dir():
                    raise FileNotFoundError(f"checkpoint not found at {path}")
                torch.load(Path(path, "state.pt"), weights_only=False)

    def _load(self, directory: Path) -> None:
        self.model.load_state_dict(torch.load(directory / "model_state_dict.pt"))
        self.resumed = torch.load(directory / "state.pt", weights_only=False)["step"]

    def _barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


def _model(name: str, args: Any) -> nn.Module:
    """TinyWorlds' names and shapes; the stand-in has no model of its own."""
    from shared.config import StageConfig
    from shared.worldmodel.build import build_model

    keys = StageConfig.model_fields.keys() & vars(args).keys() - {"distributed", "device", "checkpoint"}
    return build_model(name, StageConfig.model_validate({key: getattr(args, key) for key in keys}))


def _sheet(name: str, path: Path) -> None:
    """Two panels, originals left, generated right; matplotlib would take longer than all the training."""
    import h5py
    import numpy as np
    from PIL import Image

    with h5py.File(Path.cwd() / "data" / "pong_frames.h5") as file:
        originals = file["frames"][:16].reshape(4, 4, 64, 64, 3)
    generated = np.clip(originals.astype(int) + 2, 0, 255).astype("uint8")
    if name == "latent_actions":
        generated = generated[:, 1:].reshape(3, 4, 64, 64, 3)
    if name == "dynamics":
        originals = originals.copy()
        originals[:, -1, 16:48] = 131
    sheet = Image.new("RGB", (2400, 1240), "white")
    for panel, left in ((originals, 15), (generated, 1200)):
        rows, columns = panel.shape[:2]
        grid = np.zeros((rows * 66 + 2, columns * 66 + 2, 3), "uint8")
        for row in range(rows):
            for column in range(columns):
                grid[row * 66 + 2 : row * 66 + 66, column * 66 + 2 : column * 66 + 66] = panel[row, column]
        wide = (round(grid.shape[1] * 4.34), round(grid.shape[0] * 4.34))
        sheet.paste(Image.fromarray(grid).resize(wide, Image.Resampling.NEAREST), (left, 46))
    sheet.save(path)
