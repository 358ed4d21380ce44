"""Rows of the live page for tests: what a test does not name has a plain value."""

from __future__ import annotations

from typing import Any

from services.reporter.core.page.model import AttemptRow, GateRow, StageRow
from shared.events import GateStage


def stage_row(stage: GateStage, state: str = "complete", **changes: Any) -> StageRow:
    """A stage of 900 updates in three chunks."""
    row: dict[str, Any] = {
        "id": stage, "stage": stage, "state": state, "step": 900, "accepted_step": 900, "chunk_target": None,
        "target": 900, "attempt": 3, "gates": 3, "loss": 0.0123, "learning_rate": 1e-3,
        "updates_per_sec": 8.5, "frames_per_sec": 272.0, "eta": None, "retries_used": 0, "retries_max": 5,
        "restarts_used": 0, "restarts_max": 2, "rungs": ["learning_rate * 0.8", "log_interval / 2"],
        "climbed": [], "checkpoint": None, "best": None,
    }  # fmt: skip
    return StageRow.model_validate(row | changes)


def gate_row(stage: GateStage, attempt: int, start: int, step: int, time: float, **changes: Any) -> GateRow:
    """A gate that was accepted."""
    row: dict[str, Any] = {
        "id": f"{stage}/{attempt}", "time": time, "stage": stage, "attempt": attempt, "start_step": start,
        "step": step, "decision": "continue", "verdict": "continue", "reason": "healthy",
        "why": "All checks hold.", "values": [], "metrics": {}, "changes": {}, "resume_from": None,
        "resume_step": step, "accepted": True, "superseded": False, "effective_batch": 8, "retries_used": 0,
        "retries_max": 5, "dual_gpu_ok": True, "degraded": False, "observed": None, "evidence": [],
        "recommendations": [],
    }  # fmt: skip
    return GateRow.model_validate(row | changes)


def attempt_row(
    stage: GateStage, number: int, start: int, end: int | None, began: float, **changes: Any
) -> AttemptRow:
    """An attempt that was accepted; without an end, one in work."""
    row: dict[str, Any] = {
        "id": f"{stage}/{number}", "stage": stage, "attempt": number,
        "parent": f"{stage}/{number - 1}" if number > 1 else None, "start_step": start, "end_step": end,
        "target_step": start + 300, "superseded_from": None, "launches": 1, "warm": number > 1,
        "began": began, "ended": None if end is None else began + 60,
        "end": None if end is None else "completed", "decision": None if end is None else "continue",
        "parameters": {}, "device": "2 x cuda",
    }  # fmt: skip
    return AttemptRow.model_validate(row | changes)
