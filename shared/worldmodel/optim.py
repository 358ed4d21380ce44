"""Optimizer, learning-rate schedule, gradient clip."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from shared.config import StageConfig
from shared.errors import CheckpointError
from shared.events import Schedule

GRADIENT_CLIP = 1.0
"""Largest norm of the gradient."""
WARM_UP = 0.05
"""Share of a segment in which the learning rate rises from 0."""
LAST = 0.01
"""Learning rate at a segment's end, as a share of the peak."""
WEIGHT_DECAY = 0.01
IMPLEMENTATION = ("foreach", "fused")
"""Keys of a parameter group that say how an update is computed, not what it computes."""


def learning_rate(schedule: Schedule, update_index: int) -> float:
    """Learning rate of an update: linear warm-up from 0, cosine to 1 % of the peak.

    Args:
        schedule: The segment the update lies in.
        update_index: Updates done before this one, absolute.
    """
    horizon = schedule.end_step - schedule.start_step
    done = update_index - schedule.start_step
    warm_up = int(WARM_UP * horizon)
    if done < warm_up:
        return schedule.peak * done / warm_up
    progress = min((done - warm_up) / max(horizon - warm_up, 1), 1.0)
    return schedule.peak * (LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * progress)))


def make_optimizer(model: nn.Module, config: StageConfig) -> Optimizer:
    """The stage's optimizer over all parameters of a model that is already on its device.

    Groups come in the order that TinyWorlds' saved states number parameters by: first those with weight
    decay, then the others, each in registration order. The learning rate is set per update, for all groups.
    """
    decayed, rest, hidden = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 or name.endswith("bias") or "norm" in name:
            rest.append(parameter)
        elif config.optimizer == "muon" and parameter.ndim == 2 and ".blocks." in name:
            hidden.append(parameter)
        else:
            decayed.append(parameter)
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}]
    if config.optimizer == "muon":
        return MuonWithAdamW(hidden, groups, config.learning_rate)
    return _adamw(groups, config.learning_rate)


def _adamw(groups: list[dict[str, Any]], peak: float) -> AdamW:
    return AdamW(groups, lr=peak, betas=(0.9, 0.999), eps=1e-8, fused=True)


class MuonWithAdamW(Optimizer):
    """Muon for the 2-D weights inside the blocks, AdamW for the rest; one state dict, Muon's group first."""

    def __init__(self, hidden: list[nn.Parameter], rest: list[dict[str, Any]], peak: float) -> None:
        self._muon = Muon(
            hidden, lr=peak, weight_decay=WEIGHT_DECAY, momentum=0.95, nesterov=True, ns_steps=5
        )
        self._adamw = _adamw(rest, peak)
        super().__init__([{"params": hidden}, *rest], {"lr": peak})
        self.param_groups = self._muon.param_groups + self._adamw.param_groups

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all parameters."""
        assert closure is None
        # loading a state dict makes new groups and a new state: both halves always work on the current ones
        self._muon.param_groups, self._adamw.param_groups = self.param_groups[:1], self.param_groups[1:]
        self._muon.state = self._adamw.state = self.state
        self._muon.step()  # type: ignore[no-untyped-call]
        self._adamw.step()


def optimizer_state(optimizer: Optimizer, next_rate: float, peak: float) -> dict[str, Any]:
    """An optimizer's state as TinyWorlds saves it: on the CPU, ready for the update that comes next.

    Args:
        optimizer: What `make_optimizer` made.
        next_rate: Learning rate of the next update.
        peak: The schedule's peak.
    """
    found = optimizer.state_dict()
    state = {
        number: {
            key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in values.items()
        }
        for number, values in found["state"].items()
    }
    groups = [
        {
            **group,
            **{key: None for key in IMPLEMENTATION if key in group},
            "lr": next_rate,
            "initial_lr": peak,
        }
        for group in found["param_groups"]
    ]
    return {"state": state, "param_groups": groups}


def restore_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Put a saved state into an optimizer of the same kind and model; how it computes stays as it was made.

    Raises:
        CheckpointError: The state belongs to another optimizer or another architecture.
    """
    ours = optimizer.param_groups
    sizes = [len(group["params"]) for group in ours]
    theirs, state = _groups(saved.get("param_groups")), saved.get("state", {})
    if [len(group["params"]) for group in theirs] != sizes or not _fits(
        state, [each for group in ours for each in group["params"]]
    ):
        raise CheckpointError(
            f"the optimizer state does not fit {type(optimizer).__name__} over groups of {sizes} parameters; "
            "resume with the `optimizer` and the architecture the checkpoint was trained with"
        )
    groups = [
        {key: value if key in IMPLEMENTATION else group.get(key, value) for key, value in made.items()}
        for group, made in zip(theirs, ours, strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _groups(saved: Any) -> list[dict[str, Any]]:
    """The saved groups of parameters, without what is none."""
    found = saved if isinstance(saved, list) else []
    return [group for group in found if isinstance(group, dict) and isinstance(group.get("params"), list)]


def _fits(state: Any, parameters: list[nn.Parameter]) -> bool:
    """Whether a saved state has, for some of the parameters, single numbers and tensors of their shapes."""
    return isinstance(state, dict) and all(
        isinstance(number, int)
        and 0 <= number < len(parameters)
        and isinstance(values, dict)
        and all(
            value.ndim == 0 or value.shape == parameters[number].shape
            for value in values.values()
            if isinstance(value, torch.Tensor)
        )
        for number, values in state.items()
    )
