"""What the files of a checkpoint are called, and what is in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from shared.errors import CheckpointError
from shared.events import Stage

MODEL, OPTIMIZER, STATE = FILES = ("model_state_dict.pt", "optim_state_dict.pt", "state.pt")
MANIFEST = "manifest.json"
TINY = 1024
"""A model or optimizer file of at most so many bytes is an empty one."""
OURS = "worldloop"
PREFIXES = ("module.", "_orig_mod.")
"""What DDP and `torch.compile` put before every name."""
SIGNATURES: dict[str, Stage] = {
    "encoder.latent_head.1.weight": "video_tokenizer",
    "encoder.action_head.1.weight": "latent_actions",
    "output_mlp.weight": "dynamics",
}
"""Tensors that only one stage's model has."""


def bare(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefixes of wrappers."""
    for prefix in PREFIXES:
        if weights and all(name.startswith(prefix) for name in weights):
            return bare({name.removeprefix(prefix): tensor for name, tensor in weights.items()})
    return dict(weights)


def stage_of(path: Path, model: Mapping[str, Tensor]) -> Stage:
    """The stage that weights are of.

    Raises:
        CheckpointError: They are of none.
    """
    for tensor, stage in SIGNATURES.items():
        if tensor in model:
            return stage
    raise CheckpointError(f"{path} is of no stage: it has none of the tensors {', '.join(SIGNATURES)}")
