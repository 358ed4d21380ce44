"""The numeric verdict of each stage, at both sides of each limit."""

from __future__ import annotations

import pytest

from services.gatekeeper.config import DynamicsLimits, LatentActionsLimits, VideoTokenizerLimits
from services.gatekeeper.core.verdicts import (
    Numbers,
    dynamics_verdict,
    latent_actions_verdict,
    video_tokenizer_verdict,
)
from shared.events import WindowStats


def numbers(
    final: float = 0.005,
    *,
    early: float = 3.0,
    mid: float = 2.0,
    late: float = 1.0,
    delta: float = -2.0,
    previous: float | None = None,
    unique: float | None = 4,
    entropy: float | None = 1.0,
    binds: bool = True,
) -> Numbers:
    windows = WindowStats(early=early, mid=mid, late=late, first10=3.0, last10=3.0 + delta, delta=delta)
    return Numbers(final, windows, unique, entropy, previous, binds)


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (numbers(0.01), "continue"),
        (numbers(0.0101), "watch"),
        (numbers(0.02), "watch"),
        (numbers(0.0201), "retune"),
        (numbers(0.005, early=2.2, mid=2.0, late=2.1), "continue"),
        (numbers(0.005, early=2.2, mid=2.0, late=2.11), "watch"),
        (numbers(0.005, previous=1.1), "continue"),
        (numbers(0.005, previous=1.0), "watch"),
        (numbers(0.005, early=1.0), "watch"),
        # before the absolute limits bind, only what is relative counts
        (numbers(0.5, binds=False), "continue"),
        (numbers(0.5, previous=1.0, binds=False), "watch"),
        (numbers(0.5, early=3.0, mid=0.9, late=1.0, binds=False), "watch"),
        (numbers(0.5, early=3.0, mid=0.9, late=1.0, delta=0.1, binds=False), "retune"),
        (numbers(0.5, early=3.0, mid=0.9, late=1.0, delta=0.0, binds=False), "retune"),
    ],
)
def test_video_tokenizer(given: Numbers, verdict: str) -> None:
    assert video_tokenizer_verdict(given, VideoTokenizerLimits()).verdict == verdict


@pytest.mark.parametrize(
    ("given", "verdict", "severe"),
    [
        (numbers(0.06, unique=2, entropy=0.4), "continue", False),
        (numbers(0.0601, unique=2, entropy=0.4), "watch", False),
        (numbers(0.05, unique=2, entropy=0.39), "watch", False),
        (numbers(0.1, unique=2, entropy=0.0), "watch", False),
        (numbers(0.101, unique=2, entropy=0.4), "retune", False),
        (numbers(0.05, unique=1.9, entropy=0.4), "retune", False),
        (numbers(0.05, unique=1, entropy=0.0), "retune", True),
        (numbers(0.05, unique=None, entropy=1.0), "retune", False),
        (numbers(0.05, unique=4, entropy=None), "watch", False),
        (numbers(5.0, unique=4, entropy=1.0, binds=False), "continue", False),
        (numbers(5.0, unique=1, entropy=0.0, binds=False), "retune", True),
    ],
)
def test_latent_actions(given: Numbers, verdict: str, *, severe: bool) -> None:
    found = latent_actions_verdict(given, LatentActionsLimits())
    assert (found.verdict, found.severe) == (verdict, severe)


@pytest.mark.parametrize(("entropy", "collapsed"), [(0.39, True), (0.4, False), (None, False)])
def test_the_action_codes_collapse_below_the_entropy_that_is_asked_for(
    entropy: float | None, *, collapsed: bool
) -> None:
    found = latent_actions_verdict(numbers(0.05, entropy=entropy), LatentActionsLimits())
    assert found.entropy_collapsed == collapsed


@pytest.mark.parametrize(
    ("unique", "entropy", "severe"), [(1, 0.1, True), (1, 0.11, False), (2, 0.1, False), (1, None, False)]
)
def test_the_policy_says_from_where_on_a_collapse_is_severe(
    unique: float, entropy: float | None, *, severe: bool
) -> None:
    limits = LatentActionsLimits(collapse_action_entropy=0.1)
    assert latent_actions_verdict(numbers(0.05, unique=unique, entropy=entropy), limits).severe == severe
    given = numbers(6.0, mid=1.0, late=1.0, delta=-0.1)
    assert dynamics_verdict(given, DynamicsLimits(collapse_delta=-0.1)).severe
    assert not dynamics_verdict(given, DynamicsLimits(collapse_delta=-0.09)).severe


@pytest.mark.parametrize(
    ("given", "verdict", "severe"),
    [
        (numbers(5.0, mid=1.0, late=1.02, delta=0.2), "continue", False),
        (numbers(5.0, mid=1.0, late=1.03, delta=0.2), "watch", False),
        (numbers(5.0, mid=1.0, late=1.02, delta=0.21), "watch", False),
        (numbers(5.1, mid=1.0, late=1.02, delta=0.2), "watch", False),
        (numbers(5.0, mid=1.0, late=1.08, delta=0.5), "watch", False),
        (numbers(5.0, mid=1.0, late=1.09, delta=0.5), "retune", False),
        (numbers(5.0, mid=1.0, late=1.08, delta=0.51), "retune", False),
        (numbers(6.0, mid=1.0, late=1.0, delta=0.0), "retune", True),
        (numbers(6.0, mid=1.0, late=1.0, delta=-0.1), "watch", False),
        (numbers(6.9, mid=1.0, late=1.0, delta=0.0, binds=False), "continue", False),
        (numbers(6.9, mid=1.0, late=1.2, delta=-0.1, binds=False), "watch", False),
        (numbers(6.9, mid=1.0, late=1.2, delta=0.1, binds=False), "retune", False),
    ],
)
def test_dynamics(given: Numbers, verdict: str, *, severe: bool) -> None:
    found = dynamics_verdict(given, DynamicsLimits())
    assert (found.verdict, found.severe) == (verdict, severe)


def test_a_reason_quotes_value_and_threshold() -> None:
    reason = video_tokenizer_verdict(numbers(0.5), VideoTokenizerLimits()).reasons[0]
    assert (reason.name, reason.value, reason.threshold, reason.ok) == ("final_loss", 0.5, 0.01, False)
    assert reason.text == "final loss 0.5 is above 0.01"
    steady = video_tokenizer_verdict(numbers(0.5), VideoTokenizerLimits()).reasons[1]
    assert (steady.name, steady.value, steady.threshold) == ("late_over_mid", 1.0, 1.05 * 2.0)
