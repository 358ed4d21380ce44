"""The ladders, rung by rung."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from services.gatekeeper.config import Policy
from services.gatekeeper.core.ladders import climb, decayed, halved, rung_after, smaller_batch
from services.gatekeeper.core.state import StageState
from shared.events import STAGES, Stage


def stage(name: Stage, **knobs: Any) -> StageState:
    defaults = {
        "batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "log_interval": 2500,
        "nproc_per_node": 2,
    }
    return StageState(stage=name, target=20000, chunk=5000, parameters={**defaults, **knobs})


def floor(batch: int) -> Policy:
    return Policy.model_validate({"min_batch_size": {"dynamics": batch}})


def test_video_tokenizer() -> None:
    found = climb(stage("video_tokenizer"), Policy(), falling=True)
    assert found.patch == {"learning_rate": 5e-4, "gradient_accumulation_steps": 3, "log_interval": 1250}
    assert (found.target, found.chunk) == (20000, 5000)


def test_latent_actions_gets_one_chunk_more_while_the_loss_is_dropping() -> None:
    found = climb(stage("latent_actions"), Policy(), falling=True)
    assert found.patch == {"learning_rate": 8e-4, "log_interval": 1250}
    assert found.target == 20000 + 2000
    assert climb(stage("latent_actions"), Policy(), falling=False).target == 20000


def test_the_target_is_extended_at_most_max_retries_times() -> None:
    often = StageState(**{**_fields(stage("latent_actions")), "extensions": 5})
    assert climb(often, Policy(), falling=True).target == 20000


def test_dynamics_halves_the_chunk_but_not_below_the_log_interval() -> None:
    found = climb(stage("dynamics"), Policy(), falling=False)
    assert found.patch == {"learning_rate": 2e-4, "gradient_accumulation_steps": 1, "log_interval": 1250}
    assert found.chunk == 2500
    assert halved(2000, 1500) == 1500
    assert halved(1000, 1500) == 1000  # nor made longer


def test_accumulation_stays_at_one_or_more() -> None:
    found = climb(stage("dynamics", gradient_accumulation_steps=1), Policy(), falling=False)
    assert "gradient_accumulation_steps" not in found.patch


@pytest.mark.parametrize(("own", "after"), [(2500, 1250), (900, 500), (500, 500), (100, 100)])
def test_the_log_interval_is_halved_to_its_floor_and_never_raised(own: int, after: int) -> None:
    found = climb(stage("video_tokenizer", log_interval=own), Policy(), falling=True)
    assert found.patch.get("log_interval", own) == after


def test_one_rung_climbs_the_next_rung_that_changes_something_and_begins_again() -> None:
    policy, now = Policy(ladder_mode="one_rung"), stage("dynamics", log_interval=500)
    climbed: list[str] = []
    for _ in range(5):
        found = climb(now, policy, falling=False)
        climbed += found.rungs
        parameters = {**now.parameters, **found.patch}
        rung = rung_after(now.rung, found.rungs)
        now = StageState(**{**_fields(now), "parameters": parameters, "rung": rung, "chunk": found.chunk})
    # accumulation is at 1 after the first descent, the log interval at its floor from the start
    assert climbed == ["learning_rate", "gradient_accumulation_steps", "chunk", "learning_rate", "chunk"]


def test_the_batch_is_halved_to_the_floor() -> None:
    assert smaller_batch(stage("dynamics"), floor(1)) == {"batch_size_per_gpu": 4}
    assert smaller_batch(stage("dynamics"), floor(6)) == {"batch_size_per_gpu": 6}
    assert smaller_batch(stage("dynamics"), floor(8)) is None
    assert smaller_batch(stage("dynamics"), floor(12)) is None


@given(rate=some.floats(1e-9, 1.0), factor=some.floats(0.01, 1.0))
def test_no_ladder_raises_a_learning_rate(rate: float, factor: float) -> None:
    lower = decayed(rate, factor, 1e-6)
    assert lower <= rate
    assert lower >= min(rate, 1e-6)


@given(
    name=some.sampled_from(STAGES),
    log_interval=some.integers(1, 5000),
    accumulation=some.integers(1, 8),
    rate=some.floats(1e-7, 1e-2),
    rung=some.integers(0, 4),
    mode=some.sampled_from(["combined", "one_rung"]),
)
def test_whatever_is_climbed_nothing_is_raised_that_must_not_be(
    name: Stage, log_interval: int, accumulation: int, rate: float, rung: int, mode: Any
) -> None:
    before = StageState(
        **{
            **_fields(
                stage(
                    name,
                    log_interval=log_interval,
                    gradient_accumulation_steps=accumulation,
                    learning_rate=rate,
                )
            ),
            "rung": rung,
        }
    )
    found = climb(before, Policy(ladder_mode=mode), falling=True)
    after: dict[str, Any] = {**before.parameters, **found.patch}
    assert after["learning_rate"] <= rate
    assert after["log_interval"] <= log_interval
    assert after["gradient_accumulation_steps"] >= 1
    assert after["batch_size_per_gpu"] == 8
    assert found.chunk <= before.chunk
    assert mode == "combined" or len(found.rungs) <= 1


def _fields(state: StageState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in StageState.__slots__}
