"""One training process of `benchmarks/training.py`: a stage, or decoding, in one of the two modes.

Takes one JSON order per line and answers each with one JSON line. What it trains on, in which order and with
which masks, depends on seed and update alone: both modes see the same.

Shapes: B windows, T frames, H, W pixels, P patches.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.textbook import as_textbook, textbook_decode
from shared.config import StageConfig
from shared.datasets.frames import FramesDataset
from shared.events import Schedule, Stage
from shared.worldmodel.build import build_model
from shared.worldmodel.compiling import compile_model
from shared.worldmodel.decoding import decode
from shared.worldmodel.frames import to_float
from shared.worldmodel.optim import GRADIENT_CLIP, learning_rate, make_optimizer
from shared.worldmodel.token_cache import TokenCache

WINDOWS = 64
"""Training windows in use, spread over the recording: their tokens are at hand before the clock starts."""
CONTEXT, STEPS = 2, 16
"""Frames given to the decoder, and its steps."""
PEAK = 1e-3
"""Learning rate at its highest."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a process is to do."""

    mode: str
    """ours, textbook."""
    stage: str
    """A stage, or decode."""
    device: str
    threads: int
    frames_file: str
    scratch: str
    """For the token cache."""
    config: dict[str, Any]
    """Keys of `StageConfig`."""


def config_of(spec: Spec) -> StageConfig:
    """The setting of the comparison, with what the process was told on top."""
    setting = {"patch_size": 4, "embed_dim": 32, "num_heads": 8, "hidden_dim": 128, "num_blocks": 4}
    return StageConfig.model_validate(
        setting | {"batch_size_per_gpu": 8, "device": spec.device} | spec.config
    )


class Bench:
    """Models, data and clock of one process."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.config = spec, config_of(spec)
        self.textbook, self.device = spec.mode == "textbook", torch.device(spec.device)
        self.dataset = FramesDataset.open(
            Path(spec.frames_file),
            context_length=self.config.context_length,
            cache_dir=Path(spec.scratch),
            frame_size=self.config.frame_size,
        )
        self.windows = np.linspace(0, self.dataset.train_windows - 1, WINDOWS).round().astype(np.int64)
        self.tokenizer = self._frozen("video_tokenizer")
        self.latent_actions = self._frozen("latent_actions")
        self.cache = self._cache() if spec.stage == "dynamics" and not self.textbook else None
        self.model: nn.Module = self.tokenizer

    def _frozen(self, stage: Stage) -> Any:
        model = build_model(stage, self.config).to(self.device).eval().requires_grad_(False)  # noqa: FBT003
        return as_textbook(model) if self.textbook else model

    def _cache(self) -> TokenCache:
        cache = TokenCache(
            self.dataset,
            self.tokenizer,
            self.latent_actions,
            folder=Path(self.spec.scratch),
            limit_gb=10,
            report=sys.exit,
        )
        cache.take(self.windows)
        return cache

    # --- training ---------------------------------------------------------------------------------------

    def start(self, seed: int) -> dict[str, Any]:
        """A fresh model and optimizer."""
        stage: Any = self.spec.stage
        config = self.config.model_copy(update={"seed": seed})
        model = build_model(stage, config).to(self.device).train()
        problems: list[str] = []
        self.seed, self.model = seed, as_textbook(model) if self.textbook else model
        self.optimizer = make_optimizer(model, config)
        if self.textbook:
            groups = self.optimizer.param_groups
            plain = [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in groups]
            self.optimizer = torch.optim.AdamW(plain)
        elif config.compile:
            compile_model(model, self.device, Path(self.spec.scratch), problems.append)
        return {"problems": problems}

    def updates(self, first: int, number: int, horizon: int) -> dict[str, Any]:
        """Updates `first` to `first + number - 1`: seconds, CPU seconds and loss of each."""
        schedule = Schedule(start_step=0, end_step=horizon, peak=PEAK)
        seconds, cpu, losses = [], [], []
        for update in range(first, first + number):
            begun, begun_cpu = self._now(), time.process_time()
            losses.append(self._update(update, learning_rate(schedule, update)))
            seconds.append(self._now() - begun)
            cpu.append(time.process_time() - begun_cpu)
        return {"seconds": seconds, "cpu": cpu, "losses": losses}

    def _update(self, update: int, rate: float) -> float:
        if self.textbook:
            self.optimizer.zero_grad(set_to_none=True)
        generator = torch.Generator().manual_seed(self.seed * 100_003 + update)
        taken = torch.randint(WINDOWS, (self.config.batch_size_per_gpu,), generator=generator).numpy()
        positional = self._inputs(self.windows[taken])
        named = {} if self.spec.stage == "video_tokenizer" else {"generator": generator}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp):
            output = self.model(*positional, **named)
        output.loss.backward()
        norm = clip_grad_norm_(self.model.parameters(), GRADIENT_CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.textbook:
            self.optimizer.step()
            metrics = {name: value.item() for name, value in output.metrics.items()}
            assert len(metrics) == len(output.metrics)
            return float(output.loss.item())
        loss, *_ = torch.stack([output.loss.detach(), norm, *output.metrics.values()]).tolist()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss)

    def _inputs(self, windows: Any) -> tuple[Any, ...]:
        if self.cache is not None:
            tokens, codes = self.cache.take(windows)
            assert codes is not None
            return tokens, self.latent_actions.bits(codes)
        frames = self._frames(windows)
        if self.spec.stage != "dynamics":
            return (frames,)
        tokens = self.tokenizer.tokenize(frames)
        return tokens, self.latent_actions.bits(self.latent_actions.actions(frames))

    def _frames(self, windows: Any) -> Tensor:
        if not self.textbook:
            return to_float(torch.from_numpy(self.dataset.batch(windows)).to(self.device))
        # a loader hands out one normalized float sample after the other and stacks them
        samples = [torch.from_numpy(self.dataset.batch([window])[0]) for window in windows]
        floats = [sample.permute(0, 3, 1, 2).float() / 255 * 2 - 1 for sample in samples]
        return torch.stack(floats).to(self.device)

    def flops(self) -> dict[str, Any]:
        """Floating-point operations of one update's products, forward and backward (textbook mode's)."""
        self.start(0)
        with FlopCounterMode(display=False) as counter:
            self._update(0, 0.0)
        return {"flops": counter.get_total_flops()}

    # --- decoding ---------------------------------------------------------------------------------------

    def decode(self, batch: int, number: int) -> dict[str, Any]:
        """Seconds of decoding one frame after two, and the frames' checksum."""
        if not hasattr(self, "dynamics"):
            self.dynamics = self._frozen("dynamics")
        context = self._frames(self.windows[:batch])[:, :CONTEXT]
        codes = torch.arange(batch * CONTEXT, device=self.device).view(batch, CONTEXT) % self.config.n_actions
        seconds, cpu = [], []
        for _ in range(number):
            begun, begun_cpu = self._now(), time.process_time()
            frame = self._decoded(context, codes)
            seconds.append(self._now() - begun)
            cpu.append(time.process_time() - begun_cpu)
        return {"seconds": seconds, "cpu": cpu, "frame": frame.flatten(1)[:, ::97].cpu().tolist()}

    def _decoded(self, context: Tensor, codes: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.amp):
            if self.textbook:
                return textbook_decode(self.dynamics, self.tokenizer, context, codes, steps=STEPS)
            return decode(
                self.dynamics, self.tokenizer, context, codes, horizon=1, steps=STEPS, temperature=0
            )

    # --- the machine ------------------------------------------------------------------------------------

    def memory(self) -> dict[str, Any]:
        """Peak memory so far: resident on the CPU, allocated on the GPU."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        device = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0
        return {"resident": peak if sys.platform == "darwin" else peak * 1024, "device": device}

    def matmul(self) -> dict[str, Any]:
        """FLOP/s of a large square product in the mode's precision: what MFU is a share of."""
        size, dtype = (8192, torch.bfloat16 if self.config.amp else torch.float32)
        size = size if self.device.type == "cuda" else 1024
        a = torch.randn(size, size, device=self.device, dtype=dtype)
        times = []
        for _ in range(5):
            begun = self._now()
            a @ a
            times.append(self._now() - begun)
        return {"flops_per_s": 2 * size**3 / min(times)}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def main() -> None:
    """Work off the orders."""
    spec = Spec(**json.loads(sys.argv[1]))
    torch.set_num_threads(spec.threads)
    torch.set_num_interop_threads(1)
    if spec.config.get("tf32"):
        torch.set_float32_matmul_precision("high")
    bench = Bench(spec)
    for line in sys.stdin:
        order = json.loads(line)
        answer = getattr(bench, order.pop("do"))(**order)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
