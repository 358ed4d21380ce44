"""Builds a stage's model, fresh from its configuration or as a checkpoint left it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, overload

import torch
from torch import nn

from shared.config import StageConfig
from shared.errors import CheckpointError
from shared.events import STAGES, Stage
from shared.worldmodel.checkpoints import Checkpoint, architecture_of
from shared.worldmodel.dynamics import Dynamics
from shared.worldmodel.latent_actions import LatentActions
from shared.worldmodel.optim import make_optimizer, optimizer_state, restore_optimizer
from shared.worldmodel.video_tokenizer import VideoTokenizer

Model = VideoTokenizer | LatentActions | Dynamics
MODELS: dict[Stage, Callable[[StageConfig], Model]] = {
    "video_tokenizer": VideoTokenizer,
    "latent_actions": LatentActions,
    "dynamics": Dynamics,
}
DYNAMICS_SETTINGS = ("use_actions", "top_k_experts", "moe_aux_loss_coeff")
"""Settings besides the architecture that decide what a dynamics' weights are for."""


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


def settings_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """All settings that a checkpoint's weights and optimizer were made with; experts are found by their keys.

    Raises:
        CheckpointError: Its config does not say the architecture.
    """
    found: dict[str, Any] = dict(architecture_of(checkpoint.config, checkpoint.stage))
    if "optimizer" in checkpoint.config:
        found["optimizer"] = checkpoint.config["optimizer"]
    if checkpoint.stage == "dynamics":
        inside = (name.partition(".experts.")[2] for name in checkpoint.model)
        experts = {name.partition(".")[0] for name in inside if name}
        found |= {key: checkpoint.config[key] for key in DYNAMICS_SETTINGS if key in checkpoint.config}
        found["use_moe"] = bool(experts)
        if experts:
            found["num_experts"] = len(experts)
    return found


def config_of(checkpoint: Checkpoint) -> StageConfig:
    """The configuration that rebuilds a checkpoint's model and optimizer; the rest of it is the default.

    Raises:
        CheckpointError: Its config is none of ours.
    """
    try:
        return StageConfig.model_validate(settings_of(checkpoint))
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.directory}: its config is none of ours: {error}") from error


def model_of(checkpoint: Checkpoint) -> Model:
    """The model a checkpoint holds, on the CPU in eval mode.

    Raises:
        CheckpointError: Config and weights do not belong together.
    """
    config = config_of(checkpoint)
    _check_size(checkpoint, config)
    model = build_model(checkpoint.stage, config)
    load_weights(model, checkpoint)
    return model.eval()


def fresh_optimizer_state(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the state of an optimizer that has made no step."""
    config = config_of(checkpoint)
    optimizer = make_optimizer(model_of(checkpoint), config)
    state = optimizer_state(optimizer, config.learning_rate, config.learning_rate)
    return replace(checkpoint, optimizer=state)


def check_resumable(checkpoint: Checkpoint, config: StageConfig) -> None:
    """Make sure that training can go on from a checkpoint under a configuration.

    Raises:
        CheckpointError: Weights or optimizer state do not fit; names what, and the cure.
    """
    _check_size(checkpoint, config)
    model = build_model(checkpoint.stage, config)
    load_weights(model, checkpoint)
    try:
        restore_optimizer(make_optimizer(model, config), checkpoint.optimizer)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.directory}: {error}") from error


def _check_size(checkpoint: Checkpoint, config: StageConfig) -> None:
    """Refuse a config that wants more weights than the checkpoint has, before memory goes into them.

    Raises:
        CheckpointError: It does.
    """
    there = sum(tensor.numel() for tensor in checkpoint.model.values())
    blocks = config.num_blocks * config.embed_dim * (config.embed_dim + config.hidden_dim)
    codes = config.num_bins**config.latent_dim if checkpoint.stage == "dynamics" else 0
    ends = config.embed_dim * max(codes, config.latent_dim, config.patch_size**2 * (not codes))
    if (wanted := max(blocks, ends)) > there:
        raise CheckpointError(
            f"{checkpoint.directory} does not fit: its weights are {there} numbers, and a model of the "
            f"configuration has at least {wanted}. Resume with the configuration it was trained with"
        )


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
