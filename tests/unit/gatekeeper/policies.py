"""Policies of the gatekeeper for tests that draw them at random."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as some


def policies(**other: some.SearchStrategy[Any]) -> some.SearchStrategy[dict[str, Any]]:
    """Budgets and ladders, small; `other` names what is drawn otherwise or beside them."""
    usual: dict[str, some.SearchStrategy[Any]] = {
        "max_retries": some.integers(0, 3),
        "max_restarts": some.integers(0, 2),
        "max_inference_retries": some.integers(0, 2),
        "max_command_retries": some.integers(0, 2),
        "retry_budget": some.sampled_from(["progress", "total"]),
        "ladder_mode": some.sampled_from(["combined", "one_rung"]),
        "absolute_loss_from": some.sampled_from([0.0, 1.0]),
    }
    return some.fixed_dictionaries(usual | other)
