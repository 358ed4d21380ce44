"""Saves a checkpoint over and over in processes that die at every point of it; run by test_checkpoints.py.

Each death happens in a fork of this one small process. Prints one JSON object a line: how the save was ended,
what `newest_valid` finds, which value the directory being replaced holds after `recover`, and what is left.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from shared.bundle import recover
from shared.config import StageConfig
from shared.events import Schedule
from shared.worldmodel.build import build_model
from shared.worldmodel.checkpoints import load_checkpoint, newest_valid, save_checkpoint
from shared.worldmodel.optim import make_optimizer

TOUCHES = {"open", "os.mkdir", "os.rename", "os.rmdir", "os.remove"}
CONFIG = StageConfig(frame_size=8, patch_size=4, embed_dim=8, num_heads=1, hidden_dim=8, num_blocks=1)


def save(folder: Path, step: int, value: float) -> None:
    model = build_model("video_tokenizer", CONFIG)
    torch.nn.init.constant_(model.get_parameter("encoder.latent_head.1.bias"), value)
    optimizer = make_optimizer(model, CONFIG)
    model(torch.zeros(1, 2, 3, 8, 8)).loss.backward()
    optimizer.step()
    torch.nn.init.constant_(model.get_parameter("encoder.latent_head.1.bias"), value)
    save_checkpoint(
        folder / f"video_tokenizer_step_{step - 1}",
        stage="video_tokenizer",
        model=model,
        optimizer=optimizer,
        step=step,
        config=CONFIG,
        schedule=Schedule(peak=1e-3, start_step=0, end_step=10),
    )


def die_at_touch(number: int) -> None:
    """Die at the so many-th time that a file or directory is opened, made, renamed or removed."""
    left = number

    def hook(event: str, _: tuple[object, ...]) -> None:
        nonlocal left
        if event in TOUCHES:
            left -= 1
            if left < 0:
                os._exit(9)

    sys.addaudithook(hook)


def die_at_byte(number: int) -> None:
    """Die when a file would grow beyond so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))


def attempt(folder: Path, prepare: Callable[[int], None], number: int) -> bool:
    """Save step 20 with value 2 over value 1 in a process that dies; whether it lived to the end."""
    pid = os.fork()
    if pid == 0:
        prepare(number)
        save(folder, 20, 2.0)
        os._exit(0)
    lived = os.waitpid(pid, 0)[1] == 0
    newest = newest_valid(folder).checkpoint
    recover(folder)
    found = load_checkpoint(folder / "video_tokenizer_step_19").model["encoder.latent_head.1.bias"]
    report = {
        "how": prepare.__name__,
        "number": number,
        "lived": lived,
        "newest": newest and newest.directory.name,
        "value": found[0].item(),
        "left": sorted(path.name for path in folder.iterdir()),
    }
    print(json.dumps(report))
    if found[0] != 1:
        save(folder, 20, 1.0)
    return lived


def main() -> None:
    """Die at every touch, then at bytes all over the files."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    save(folder, 10, 0.0)
    save(folder, 20, 1.0)
    number = 0
    while not attempt(folder, die_at_touch, number):
        number += 1
    largest = max(path.stat().st_size for path in folder.glob("*/*"))
    for number in range(0, largest + 1, largest // 12):
        attempt(folder, die_at_byte, number)
    attempt(folder, die_at_byte, largest)


if __name__ == "__main__":
    main()
