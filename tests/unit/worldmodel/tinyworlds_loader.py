"""Stands in for TinyWorlds' own loader; run by test_checkpoints.py in a process that knows no worldloop.

Like it, this reads weights with `weights_only`, the state without, and hands the weights to the model as
distributed checkpoints do; then optimizer and scheduler take their states, and make a step. The model is an
empty shell with the names, shapes and dtypes of a checkpoint that TinyWorlds itself wrote.

Usage: python -I -S tinyworlds_loader.py SITE_PACKAGES THEIRS OURS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.append(sys.argv[1])  # and nothing else: -I and -S keep out PYTHONPATH, .pth files and this directory
sys.modules["shared"] = sys.modules["services"] = None  # type: ignore[assignment]  # importing them fails

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict  # noqa: E402


def shell(weights: dict[str, torch.Tensor]) -> nn.Module:
    """A module whose state dict has these names, shapes and dtypes, all zero."""
    root = nn.Module()
    for name, tensor in weights.items():
        *path, last = name.split(".")
        at = root
        for part in path:
            if not hasattr(at, part):
                at.add_module(part, nn.Module())
            at = getattr(at, part)
        if tensor.is_floating_point():
            at.register_parameter(last, nn.Parameter(torch.zeros_like(tensor)))
        else:
            at.register_buffer(last, torch.zeros_like(tensor))
    return root


def main() -> None:
    """Load a checkpoint into the shell of another; what was read goes to stdout."""
    theirs, ours = Path(sys.argv[2]), Path(sys.argv[3])
    model = shell(torch.load(theirs / "model_state_dict.pt", weights_only=True))
    weights = torch.load(ours / "model_state_dict.pt", map_location="cpu", weights_only=True)
    state = torch.load(ours / "state.pt", map_location="cpu", weights_only=False)
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))
    assert {name: tensor.dtype for name, tensor in weights.items()} == {
        name: tensor.dtype for name, tensor in model.state_dict().items()
    }
    named = list(model.named_parameters())
    plain = [p for name, p in named if p.ndim == 1 or name.endswith(".bias") or "norm" in name]
    decayed = [p for name, p in named if all(p is not other for other in plain)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0}], lr=1e-3, fused=True
    )
    optimizer.load_state_dict(torch.load(ours / "optim_state_dict.pt", weights_only=True))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda _: 1.0, lambda _: 1.0])
    scheduler.load_state_dict(state["scheduler_state_dict"])
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    config = state.get("config", {}) or {}
    report = {
        "config": config,
        "step": state["step"],
        "updates": int(next(iter(optimizer.state.values()))["step"]),
        "last_epoch": scheduler.last_epoch,
    }
    sys.stdout.write(json.dumps(report))


main()
