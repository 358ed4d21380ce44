"""The commands that a state implies. Publishing them again is harmless: their ids are deterministic."""

from __future__ import annotations

from services.gatekeeper.core.state import Chunk, Ending, Evaluation, RunState
from shared.events import ChunkCommand, Command, EvaluateInference, StopChunk, WriteReports


def commands(state: RunState) -> list[Command]:
    """What is outstanding, given that `decide` has nothing to add.

    A chunk command is outstanding until `chunk_started`, an inference test until `inference_done`, reports
    until each was written, a stop until the chunk is done.
    """
    chunk, ending, evaluation = state.chunk, state.ending, state.evaluation
    found: list[Command] = []
    over = ending is not None or state.stop is not None
    if chunk is not None and chunk.done is None and state.finished is None:
        if chunk.started is None and ending is None:
            found.append(chunk_command(state.run_id, chunk))
        if over:
            found.append(stop_command(state.run_id, chunk))
    if ending is not None:
        if reports_missing(state, ending) and not ending.given_up:
            found.append(reports_command(state, ending))
    elif evaluation is not None and evaluation.done is None and state.finished is None:
        found.append(evaluate_command(state, evaluation))
    return found


def chunk_command(run_id: str, chunk: Chunk) -> ChunkCommand:
    """What asks the trainer for a chunk."""
    return chunk.order(run_id=run_id, plan=chunk.plan, retry=chunk.sending.number)


def stop_command(run_id: str, chunk: Chunk) -> StopChunk:
    """What asks the trainer to end a chunk."""
    return StopChunk(run_id=run_id, stage=chunk.plan.stage, attempt=chunk.plan.attempt)


def evaluate_command(state: RunState, evaluation: Evaluation) -> EvaluateInference:
    """What asks for an inference test."""
    return EvaluateInference(
        run_id=state.run_id,
        inference_try=evaluation.number,
        retry=evaluation.sending.number,
        checkpoints=dict(evaluation.checkpoints),
        settings=state.inference.model_dump(mode="json"),
    )


def reports_command(state: RunState, ending: Ending) -> WriteReports:
    """What asks for the reports of an outcome."""
    return WriteReports(
        run_id=state.run_id,
        outcome=ending.outcome,
        reason=ending.reason,
        degraded=state.degraded,
        kinds=state.report_kinds,
        ordinal=ending.ordinal,
        retry=ending.sending.number,
    )


def reports_missing(state: RunState, ending: Ending) -> list[str]:
    """Kinds the reporter has not answered for."""
    return [kind for kind in state.report_kinds if kind not in ending.reports]
