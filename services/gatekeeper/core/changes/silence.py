"""What becomes of a command that nobody answers: it is sent again, then the run ends."""

from __future__ import annotations

from dataclasses import replace

from services.gatekeeper.core.changes.onward import end
from services.gatekeeper.core.orders import chunk_command, evaluate_command, reports_command, stop_command
from services.gatekeeper.core.state import RunState
from shared.events import CommandTimedOut


def command_timed_out(state: RunState, event: CommandTimedOut) -> RunState:
    """Nothing came of the command that is out."""
    limit = state.policy.max_command_retries
    chunk, evaluation, ending = state.chunk, state.evaluation, state.ending
    if ending is not None:
        if event.command != reports_command(state, ending).id:
            return state
        if ending.sending.exhausted(limit):
            return replace(state, ending=replace(ending, given_up=True))
        return replace(state, ending=replace(ending, sending=ending.sending.again()))
    if chunk is not None and chunk.done is None:
        if event.command == stop_command(state.run_id, chunk).id and state.stop is not None:
            return end(state, "stopped", f"{state.stop}; the trainer did not answer")
        if event.command != chunk_command(state.run_id, chunk).id or chunk.started is not None:
            return state
        if state.stop is not None:
            return end(state, "stopped", state.stop)
        if chunk.sending.exhausted(limit):
            plan = chunk.plan
            asked = f"the trainer did not begin {plan.stage} attempt {plan.attempt}"
            return end(state, "failed", f"{asked}, asked {limit + 1} times")
        return replace(state, chunk=replace(chunk, sending=chunk.sending.again()))
    if evaluation is not None and evaluation.done is None:
        if event.command != evaluate_command(state, evaluation).id:
            return state
        if evaluation.sending.exhausted(limit):
            asked = f"the inference service did not answer for test {evaluation.number}"
            return end(state, "failed", f"{asked}, asked {limit + 1} times")
        return replace(state, evaluation=replace(evaluation, sending=evaluation.sending.again()))
    return state
