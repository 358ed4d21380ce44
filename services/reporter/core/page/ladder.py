"""What a stage's ladder would change, and what failed gates have changed, as texts; from the run's policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.reporter.core.markdown import number
from shared.events import GateDecided, GateStage

SHOWN = 20
"""Changes that a stage's row keeps, so that it does not grow with the run."""


def section(policy: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A table of the gatekeeper's policy; empty where it has none."""
    found: Any = policy.get("gatekeeper", {})
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def budget(policy: Mapping[str, Any], key: str) -> int:
    """A whole number of the gatekeeper's policy; 0 where it has none."""
    found = section(policy).get(key)
    return found if isinstance(found, int) else 0


def rungs(policy: Mapping[str, Any], stage: GateStage) -> list[str]:
    """What the stage's ladder changes at a failed gate, in order; nothing where the policy does not say."""
    if stage == "inference":
        return _inference_rungs(section(policy))
    ladder = section(policy, "ladders", stage)
    if not ladder:
        return []
    chunk = section(policy, "chunk").get(stage)
    texts = [f"learning_rate * {number(ladder.get('learning_rate_factor'))}"]
    change = ladder.get("gradient_accumulation_change") or 0
    if change:
        sign = "+" if change > 0 else "-"
        texts.append(f"gradient_accumulation_steps {sign} {abs(change)}")
    texts.append(f"log_interval / 2, not below {ladder.get('log_interval_floor')}")
    if ladder.get("extend_target"):
        texts.append(f"target + {chunk} while the loss falls")
    if ladder.get("halve_chunk"):
        texts.append("chunk / 2")
    return texts


def _inference_rungs(policy: Mapping[str, Any]) -> list[str]:
    if "retry_chunk" not in policy:
        return []
    return [
        f"dynamics: target + {policy['retry_chunk']}",
        f"dynamics: learning_rate * {number(policy.get('retry_lr_decay'))}",
    ]


def climbed(gate: GateDecided, before: Mapping[str, Any], target: int) -> list[str]:
    """What a failed gate changed, one text each.

    Args:
        gate: The gate.
        before: The stage's parameters at it.
        target: The stage's target before it.
    """
    if gate.decision not in ("retune", "restart_stage"):
        return []
    texts = [
        f"{key} {number(before.get(key))} -> {number(value)}"
        for key, value in gate.config_patch_applied.items()
    ]
    if gate.target_step != target:
        texts.append(f"target {target} -> {gate.target_step}")
    if "chunk" in gate.ladder:
        texts.append(f"chunk ends at {gate.next_target_step}")
    return [f"{text} (attempt {gate.attempt})" for text in texts]
