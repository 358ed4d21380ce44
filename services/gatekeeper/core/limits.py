"""What a run waits for within a limit: evidence at a gate, answers to commands."""

from __future__ import annotations

from dataclasses import dataclass

from services.gatekeeper.core.orders import chunk_command, commands, stop_command
from services.gatekeeper.core.state import Chunk, RunState
from shared.events import Command, CommandTimedOut, EvidenceTimedOut


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that must come within a limit."""

    key: str
    """Tells this wait from every other."""
    limit_sec: float
    over: EvidenceTimedOut | CommandTimedOut
    """What to append when it did not come, but for `waited_sec`."""
    work: str | None
    """A service that says it works on a command whose id begins like this holds the limit back."""


def waiting(state: RunState) -> Waiting | None:
    """What the run waits for with a limit, if anything; not for a run that is queued.

    A chunk that has started has no limit, unless it was asked to stop and nobody seems to work on it.
    """
    chunk, policy = state.chunk, state.policy
    limits = policy.command_timeout_sec
    if state.finished is not None or (state.paused is not None and state.ending is None):
        return None
    if state.ending is None and chunk is not None and chunk.done is None:
        work = f"{state.run_id}/{chunk.plan.stage}/{chunk.plan.attempt}/"
        if chunk.started is None:
            return _answer(chunk_command(state.run_id, chunk), limits.chunk, chunk.sending.number, work)
        if state.stop is not None:
            return _answer(stop_command(state.run_id, chunk), limits.chunk, 0, work)
        return None
    if state.ending is None and chunk is not None:
        return _evidence(state, chunk)
    for command in commands(state):
        if state.ending is not None and command.service == "reporter":
            return _answer(command, limits.write_reports, state.ending.sending.number, command.id)
        if state.evaluation is not None and command.service == "inference":
            return _answer(command, limits.evaluate_inference, state.evaluation.sending.number, command.id)
    return None


def _evidence(state: RunState, chunk: Chunk) -> Waiting | None:
    if chunk.timed_out or not chunk.missing:
        return None
    over = EvidenceTimedOut(
        run_id=state.run_id,
        stage=chunk.plan.stage,
        attempt=chunk.plan.attempt,
        missing=chunk.missing,
        waited_sec=0.0,
    )
    return Waiting(over.id, state.policy.evidence_timeout_sec, over, work=None)


def _answer(command: Command, limit_sec: float, retry: int, work: str) -> Waiting:
    over = CommandTimedOut(
        run_id=command.run_id, command=command.id, service=command.service, waited_sec=0.0, retry=retry
    )
    return Waiting(command.id, limit_sec, over, work)
