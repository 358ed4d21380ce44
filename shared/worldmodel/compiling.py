"""`compile: true`: a model's blocks as machine code made for them, where the machine has a compiler."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from shared.worldmodel.attention import WIDEST
from shared.worldmodel.layers import FeedForward, SpatialAttention, TemporalAttention

MOST_SHAPES = 64
"""Most inputs a part is compiled for. A stage needs a few; more come with batch sizes that are retuned."""


def compile_model(model: nn.Module, device: torch.device, cache: Path, report: Callable[[str], None]) -> None:
    """Have the parts of a model's blocks compiled when they are first trained; its state dict stays as it is.

    Part by part, not as a whole: all blocks share what is compiled once, and what differs from update to
    update (how many tokens are hidden, how many go to an expert) stays outside. Each shape has its own code,
    so that what is computed does not depend on which shape came first, and a resumed training is exact.

    Args:
        model: On its device.
        device: The model's.
        cache: Machine code is kept in here, for every later process.
        report: Told why the model stays as it is, on a machine that cannot compile: then it computes the
            same but for rounding.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "inductor")
    from torch._inductor import config  # takes seconds, for those who compile alone

    config.cpp_cache_precompile_headers = False  # torch keeps those in the temporary directory regardless
    try:
        # a trial of two instructions, so that a machine without a compiler is found out before training
        torch.compile(_trial)(torch.ones(2, device=device))
    except RuntimeError as error:  # what torch.compile raises derives from it, missing compilers included
        reason = str(error).strip().splitlines()[0]
        report(
            f"compile: true is not used, the model trains uncompiled: {reason}. Install a C++ compiler "
            "(g++, or with CUDA what triton asks for), or set compile: false"
        )
        return
    for module in model.modules():
        if _gains(module, device):
            module.compile(fullgraph=True, dynamic=False, recompile_limit=MOST_SHAPES)


def _gains(module: nn.Module, device: torch.device) -> bool:
    """Whether a part is faster when compiled; attention written by hand for narrow heads on a CPU is not."""
    if isinstance(module, SpatialAttention):
        return device.type != "cpu" or module.head > WIDEST
    return isinstance(module, TemporalAttention | FeedForward)


def _trial(x: Tensor) -> Tensor:
    return x + 1
