"""The inference test is over, and whether it says anything about the models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from services.gatekeeper.core.state import RunState
from shared.events import InferenceDone, Stage


def done(state: RunState, event: InferenceDone) -> RunState:
    """The test is over; one that says nothing about the models is run again."""
    asked = state.evaluation
    if asked is None or asked.done is not None or event.inference_try != asked.number:
        return state
    if not is_usable(event, asked.checkpoints):
        if event.retry != asked.sending.number:  # an older sending's failure, which was answered already
            return state
        if not asked.sending.exhausted(state.policy.max_command_retries):
            return replace(state, evaluation=replace(asked, sending=asked.sending.again()))
    return replace(state, evaluation=replace(asked, done=event), mode=event.mode)


def is_usable(done: InferenceDone, selected: Mapping[Stage, str]) -> bool:
    """Whether the test says something about the models; if not, it is run again rather than they trained."""
    return (
        done.ok
        and done.picture is not None
        and done.gating is not None
        and 0 < done.frames_expected <= done.frames_inferred
        and done.checkpoints == selected
    )
