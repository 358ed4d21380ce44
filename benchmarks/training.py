"""How fast we train and decode, and in how much memory, as ratios against textbook mode.

    python benchmarks/training.py [--device cpu|cuda] [--threads 2] [--updates 8] [--seeds 3]
        [--frame-size 64 128] [--masking tinyworlds last_frame] [--amp] [--compile] [--tf32]

Textbook mode (`textbook.py`) is the same models computed the usual way: in fp32, eager, with torch's default
AdamW, tokens and actions computed anew at each dynamics update, in a process with the default allocator. Ours
is what a rank of the trainer does, in the environment that the trainer gives it, with `--amp`, `--compile`
and `--tf32` if asked for. Each stage of each mode has a process of its own; they take turns, update by update
on the same windows, masks and rates, so that a busy machine is busy for both. A ratio is textbook's median
over ours (memory: ours over textbook's). Decoding is one frame after two in 16 steps at temperature 0.

Sizes: batch 8 x 4 frames, patch 4, E 32, 8 heads, hidden 128, 4 blocks. Ours reads dynamics' tokens from a
filled token cache. Losses of all seeds are shown side by side.

MFU = operations of one textbook update's products, forward and backward (torch.utils.flop_counter), per
second of an update, over the rate of one large product in the same precision on the same device.

Last line: one JSON object. Ratios at its top are those of the first frame size and masking.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.training_worker import STEPS, Spec  # noqa: E402
from services.commands.play import SPINS  # noqa: E402
from services.trainer.core.launch import tuning  # noqa: E402
from shared.events import STAGES  # noqa: E402

PONG = ROOT / "tests" / "fixtures" / "pong_frames.h5"
OURS_ALONE = ("MALLOC_", "OMP_", "GOMP_", "KMP_", "MKL_", "LD_PRELOAD")
"""Prefixes of what textbook mode's environment must not say."""
BATCHES = (1, 8)
"""Of the decoder."""
FRAMES_PER_WINDOW, WINDOWS_PER_UPDATE = 4, 8
Result = dict[str, Any]


class Process:
    """A training process in one of the modes.

    Args:
        spec: What it does.
        changes: To the environment that ours gets from the trainer.
    """

    def __init__(self, spec: Spec, changes: Mapping[str, str] | None = None) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(OURS_ALONE)}
        environment["OMP_NUM_THREADS"] = str(spec.threads)
        if spec.mode == "ours":
            environment |= tuning(spec.device, 1, spec.threads)
            if spec.stage == "decode":
                environment["GOMP_SPINCOUNT"] = SPINS
            environment |= changes or {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.training_worker", json.dumps(asdict(spec))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def ask(self, do: str, **order: Any) -> Result:
        """Give an order and wait for the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **order}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"the {do} of a training process failed; what it said stands above")
        answer: Result = json.loads(line)
        return answer


def main() -> None:
    """Measure, print the tables, then the JSON object."""
    arguments = parse()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "--device cuda: torch finds no CUDA device here; run with --device cpu, or see `worldloop doctor`"
        )
    found: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for size in arguments.frame_size:
            frames = frames_of(arguments.frames_file, size, Path(scratch))
            for masking in arguments.masking:
                stages = STAGES if masking == arguments.masking[0] else ("dynamics",)
                base = {
                    "frame_size": size,
                    "dynamics_masking": masking,
                    "amp": arguments.amp,
                    "compile": arguments.compile,
                    "tf32": arguments.tf32,
                }
                result: Result = {each: stage(arguments, each, base, frames, scratch) for each in stages}
                if masking == arguments.masking[0]:
                    result["decode"] = decoding(arguments, base, frames, scratch)
                found[f"{size}x{size} {masking}"] = result
                show(f"{size}x{size}, {masking} masking, {arguments.device}", result)
    print(json.dumps(summary(found)))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--updates", type=int, default=8, help="per seed and stage")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--frame-size", type=int, nargs="+", default=[64])
    parser.add_argument("--masking", nargs="+", default=["tinyworlds", "last_frame"])
    parser.add_argument("--frames-file", type=Path, default=PONG)
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tf32", action="store_true")
    return parser.parse_args()


def frames_of(source: Path, size: int, scratch: Path) -> Path:
    """The recording at a frame size; smaller frames are enlarged by repeating pixels."""
    with h5py.File(source) as file:
        found = file["frames"].shape[1]
        if found == size:
            return source
        if size % found:
            sys.exit(f"{source} has frames of {found}x{found}; --frame-size must be a multiple of that")
        frames = file["frames"][:].repeat(size // found, 1).repeat(size // found, 2)
    path = scratch / f"{size}_frames.h5"
    with h5py.File(path, "w") as file:
        file["frames"] = frames
    return path


def processes(
    arguments: argparse.Namespace, stage: str, base: Result, frames: Path, scratch: str
) -> tuple[Process, Process]:
    """Textbook mode's process and ours for a stage."""
    plain = {**base, "amp": False, "compile": False, "tf32": False}
    common = (stage, arguments.device, arguments.threads, str(frames), scratch)
    return Process(Spec("textbook", *common, plain)), Process(Spec("ours", *common, base))


def stage(arguments: argparse.Namespace, name: str, base: Result, frames: Path, scratch: str) -> Result:
    """Train a stage in both modes, turn by turn."""
    told: dict[str, list[Result]] = {"textbook": [], "ours": []}
    curves: list[dict[str, list[float]]] = []
    textbook, ours = processes(arguments, name, base, frames, scratch)
    with textbook, ours:
        both = {"textbook": textbook, "ours": ours}
        for seed in range(arguments.seeds):
            for process in both.values():
                for problem in process.ask("start", seed=seed).get("problems", ()):
                    print(problem, file=sys.stderr)
            curve: dict[str, list[float]] = {"textbook": [], "ours": []}
            for update in range(arguments.updates):
                for mode, process in both.items():
                    answer = process.ask("updates", first=update, number=1, horizon=arguments.updates)
                    curve[mode] += answer["losses"]
                    if seed or update:  # the first one of a process warms it up
                        told[mode].append(answer)
            curves.append(curve)
        memory = {mode: process.ask("memory") for mode, process in both.items()}
        flops = textbook.ask("flops")["flops"]
        peak = {mode: process.ask("matmul")["flops_per_s"] for mode, process in both.items()}
    seconds = {mode: median(answers, "seconds") for mode, answers in told.items()}
    cpu = {mode: median(answers, "cpu") for mode, answers in told.items()}
    kind = "device" if arguments.device == "cuda" else "resident"
    return {
        "seconds": seconds,
        "ratio": seconds["textbook"] / seconds["ours"],
        "cpu_ratio": cpu["textbook"] / cpu["ours"],
        "samples_per_s": {mode: WINDOWS_PER_UPDATE / each for mode, each in seconds.items()},
        "mfu": {mode: flops / each / peak[mode] for mode, each in seconds.items()},
        "memory_mb": {mode: each[kind] / 1e6 for mode, each in memory.items()},
        "memory_ratio": memory["ours"][kind] / memory["textbook"][kind],
        "mean_losses": [{mode: statistics.fmean(values) for mode, values in each.items()} for each in curves],
        "last_losses": [{mode: values[-1] for mode, values in each.items()} for each in curves],
        "largest_difference": max(
            abs(a - b) for each in curves for a, b in zip(each["textbook"], each["ours"], strict=True)
        ),
    }


def decoding(arguments: argparse.Namespace, base: Result, frames: Path, scratch: str) -> Result:
    """Decode one frame in both modes, turn by turn."""
    result: Result = {}
    textbook, ours = processes(arguments, "decode", base, frames, scratch)
    with textbook, ours:
        for batch in BATCHES:
            for process in (textbook, ours):
                process.ask("decode", batch=batch, number=1)
            rounds = [
                {
                    "textbook": textbook.ask("decode", batch=batch, number=1),
                    "ours": ours.ask("decode", batch=batch, number=4),
                }
                for _ in range(5)
            ]
            seconds = {mode: median([each[mode] for each in rounds], "seconds") for mode in rounds[0]}
            cpu = {mode: median([each[mode] for each in rounds], "cpu") for mode in rounds[0]}
            pixels = {mode: torch.tensor(answer["frame"]) for mode, answer in rounds[0].items()}
            same = torch.isclose(pixels["textbook"], pixels["ours"], atol=1e-3).float().mean()
            result[str(batch)] = {
                "seconds": seconds,
                "ratio": seconds["textbook"] / seconds["ours"],
                "cpu_ratio": cpu["textbook"] / cpu["ours"],
                "frames_per_s": {mode: batch / each for mode, each in seconds.items()},
                "same_pixels": same.item(),
            }
    return result


def median(answers: list[Result], key: str) -> float:
    """Over all single measurements of the answers."""
    return float(statistics.median(value for answer in answers for value in answer[key]))


def show(title: str, result: Result) -> None:
    """Print the tables of one setting."""
    print(f"\n{title}\n")
    columns = f"{'textbook':>10} {'ours':>10} {'ratio':>7} {'CPU':>7} {'memory':>14} {'samples/s':>10}"
    print(f"{'':>16} {columns} {'MFU':>6}")
    for name in (each for each in STAGES if each in result):
        each = result[name]
        seconds, memory = each["seconds"], each["memory_mb"]
        print(
            f"{name:>16} {seconds['textbook']:>8.3f} s {seconds['ours']:>8.3f} s {each['ratio']:>6.2f}x "
            f"{each['cpu_ratio']:>6.2f}x {memory['ours']:>5.0f}/{memory['textbook']:.0f} MB "
            f"{each['samples_per_s']['ours']:>10.1f} {each['mfu']['ours']:>6.2f}"
        )
    for batch, each in result.get("decode", {}).items():
        seconds = each["seconds"]
        print(
            f"{'decode batch ' + batch:>16} {seconds['textbook']:>8.3f} s {seconds['ours']:>8.3f} s "
            f"{each['ratio']:>6.2f}x {each['cpu_ratio']:>6.2f}x   "
            f"{each['frames_per_s']['ours']:.1f} frames/s, {each['same_pixels']:.1%} of the pixels the same"
        )
    print("\nlosses, textbook | ours: mean over the updates, then the last")
    for name in (each for each in STAGES if each in result):
        pairs = zip(result[name]["mean_losses"], result[name]["last_losses"], strict=True)
        for seed, (mean, last) in enumerate(pairs):
            print(
                f"{name:>16} seed {seed}: {mean['textbook']:.6f} | {mean['ours']:.6f}   "
                f"{last['textbook']:.6f} | {last['ours']:.6f}"
            )
        print(f"{'':>16} largest difference at one update: {result[name]['largest_difference']:.1e}")


def summary(found: dict[str, Result]) -> Result:
    """The JSON object: the first setting's ratios at the top, everything below `settings`."""
    first = next(iter(found.values()))
    return {
        **{f"{name}_ratio": round(first[name]["ratio"], 3) for name in STAGES},
        "decode_ratio": round(first["decode"][str(BATCHES[0])]["ratio"], 3),
        "memory_ratio": round(max(first[name]["memory_ratio"] for name in STAGES), 3),
        "textbook_s_per_update": {name: first[name]["seconds"]["textbook"] for name in STAGES},
        "ours_s_per_update": {name: first[name]["seconds"]["ours"] for name in STAGES},
        "cpu_ratios": {name: round(first[name]["cpu_ratio"], 3) for name in STAGES},
        "frames_per_s": first["decode"][str(BATCHES[0])]["frames_per_s"]["ours"],
        "decode_steps": STEPS,
        "settings": found,
    }


if __name__ == "__main__":
    main()
