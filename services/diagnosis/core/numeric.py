"""Check 6 of a gate by hand: the numeric verdict on any history, taken as one chunk."""

from __future__ import annotations

from services.diagnosis.core import measures
from services.diagnosis.core.model import Part
from services.gatekeeper.config import Policy
from services.gatekeeper.core.detectors import loss_spike, non_finite
from services.gatekeeper.core.verdicts import numeric_verdict
from shared.events import HistoryStats, Reason, Stage, Verdict


class NumericGate(Part):
    """What `worldloop gate --json` prints."""

    path: str
    stage: Stage
    policy: str
    """Where the thresholds came from."""
    verdict: Verdict
    severe: bool
    """The collapse is severe: at a gate the stage would be restarted."""
    reasons: list[Reason]
    history: HistoryStats
    problem: str | None
    """Why the history could not be read to its end."""


def judge_history(
    path: str, stage: Stage, columns: measures.Columns, policy: Policy, *, origin: str, problem: str | None
) -> NumericGate:
    """Judge all rows of a history as one chunk, the stage's first; the absolute loss limits bind.

    Of the detectors those that need nothing but the history take part: non-finite loss and loss spike.

    Args:
        path: The history.
        stage: Whose limits apply.
        columns: Its rows.
        policy: The limits.
        origin: Where they came from.
        problem: Why the history could not be read to its end.
    """
    stats = measures.stats(columns)
    numeric = numeric_verdict(stage, stats, policy, previous_late=None, binding=True)
    reasons = list(numeric.reasons)
    detectors = policy.detectors
    detected = []
    if detectors.non_finite.enabled and (lost := non_finite(stats, detectors.non_finite)):
        detected.append(lost)
    if detectors.loss_spike.enabled and stats.levels is not None:
        detected.append(loss_spike(stats.levels, detectors.loss_spike))
    return NumericGate(
        path=path,
        stage=stage,
        policy=origin,
        verdict=numeric.verdict if all(reason.ok for reason in detected) else "retune",
        severe=numeric.severe,
        reasons=[*reasons, *detected],
        history=stats,
        problem=problem,
    )
