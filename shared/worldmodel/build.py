"""Builds a stage's model, fresh from its configuration or as a checkpoint left it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import nn

from shared.config import StageConfig
from shared.errors import CheckpointError
from shared.events import STAGES, Stage
from shared.worldmodel.checkpoints import Checkpoint, architecture_of
from shared.worldmodel.dynamics import Dynamics
from shared.worldmodel.latent_actions import LatentActions
from shared.worldmodel.video_tokenizer import VideoTokenizer

Model = VideoTokenizer | LatentActions | Dynamics
MODELS: dict[Stage, Callable[[StageConfig], Model]] = {
    "video_tokenizer": VideoTokenizer,
    "latent_actions": LatentActions,
    "dynamics": Dynamics,
}


@overload
def build_model(stage: Literal["video_tokenizer"], config: StageConfig) -> VideoTokenizer: ...
@overload
def build_model(stage: Literal["latent_actions"], config: StageConfig) -> LatentActions: ...
@overload
def build_model(stage: Literal["dynamics"], config: StageConfig) -> Dynamics: ...


@overload
def build_model(stage: Stage, config: StageConfig) -> Model: ...


def build_model(stage: Stage, config: StageConfig) -> Model:
    """A stage's model on the CPU, its weights drawn from `config.seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed * len(STAGES) + STAGES.index(stage))
        return MODELS[stage](config)


def model_of(checkpoint: Checkpoint) -> Model:
    """The model a checkpoint holds, on the CPU in eval mode; experts are found by their keys.

    Raises:
        CheckpointError: Config and weights do not belong together.
    """
    values: dict[str, Any] = dict(architecture_of(checkpoint.config, checkpoint.stage))
    experts = {name.split(".experts.")[1].split(".")[0] for name in checkpoint.model if ".experts." in name}
    optional = ("use_actions", "top_k_experts", "moe_aux_loss_coeff")
    values |= {key: checkpoint.config[key] for key in optional if key in checkpoint.config}
    if experts:
        values |= {"use_moe": True, "num_experts": len(experts)}
    try:
        config = StageConfig.model_validate(values)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.directory}: its config is none of ours: {error}") from error
    model = build_model(checkpoint.stage, config)
    load_weights(model, checkpoint)
    return model.eval()


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's weights into a model.

    Raises:
        CheckpointError: Names and shapes are not the model's; nothing was loaded.
    """
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in checkpoint.model.items()}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise CheckpointError(
                f"{checkpoint.directory} does not fit: {name} is {theirs.get(name, 'missing')} there, "
                f"{ours.get(name, 'unknown')} in the model. Resume with the configuration it was trained with"
            )
    model.load_state_dict(checkpoint.model)
