"""The newest inference test as the page shows it."""

from __future__ import annotations

from services.reporter.core.page.gates import measured
from services.reporter.core.page.model import Inference
from shared.events import GateDecided, InferenceDone

NUMBERS = tuple(
    name
    for name, field in InferenceDone.model_fields.items()
    if field.annotation in (float | None, int | None)
)
"""All single numbers of a test."""


def tested(done: InferenceDone, time: float) -> Inference:
    """A test before its gate.

    Args:
        done: The test.
        time: Unix time when it was done.
    """
    return Inference(
        time=time,
        inference_try=done.inference_try,
        passed=None,
        problem=done.problem,
        mode=done.mode,
        values=[],
        numbers={name: getattr(done, name) for name in NUMBERS},
        picture=done.picture,
        preview=done.preview,
    )


def judged(test: Inference, gate: GateDecided) -> Inference:
    """The test after its gate: gating numbers first."""
    gating = [reason for reason in gate.reasons if reason.check >= 6]
    rest = [reason for reason in gate.reasons if reason.check < 6]
    values = [measured(reason) for reason in (*gating, *rest)]
    return test.model_copy(update={"passed": gate.decision == "continue", "values": values})
