"""What a gate decided and why, and where a stage ends."""

from __future__ import annotations

from typing import ClassVar

from pydantic import JsonValue

from shared.events.base import BundlePath, Decision, Document, Event, GateStage, Stage, Value, Verdict


class Reason(Value):
    """One check of a gate: what was measured, against what."""

    check: int
    """Number of the check in the order of evaluation, 1..7; 0 for what is not a check."""
    name: str
    value: JsonValue
    threshold: JsonValue
    ok: bool
    text: str
    """The same as a sentence."""


class Withheld(Value):
    """What a gate would have done in a run that is not only observed."""

    decision: Decision
    resume_from: BundlePath | None
    resume_step: int
    next_target_step: int | None
    target_step: int
    config_patch: Document
    ladder: list[str]


class GateDecided(Event):
    """The record of a gate: verdict, decision, and all it rests on."""

    name: ClassVar[str] = "gate_decided"
    stage: GateStage
    attempt: int
    """Chunk attempt, or `inference_try` at the inference gate."""
    gate_step: int
    target_step: int
    """Stage target after this decision."""
    decision: Decision
    verdict: Verdict
    reason: str
    """One word: healthy, watch, oom, runtime_error, non_finite, gpu_guard, invalid_checkpoint, ..."""
    reasons: list[Reason]
    metrics: dict[str, float | None]
    resume_from: BundlePath | None
    """Where training goes on; after a stop, where it would when the run is resumed."""
    resume_step: int
    accepted_checkpoint: BundlePath | None = None
    """Set when the gate was accepted."""
    best_checkpoint: BundlePath | None = None
    next_target_step: int | None = None
    """Target of the next chunk; none when there is none."""
    config_patch_applied: Document = {}
    """Knobs that change with this decision; a stop changes none."""
    config_patch_on_resume: Document = {}
    """After a stop: knobs that change when the run is resumed."""
    decision_on_resume: Decision | None = None
    """After a stop: what is done when the run is resumed."""
    ladder: list[str] = []
    """Rungs that were climbed: learning_rate, gradient_accumulation_steps, log_interval, target, chunk."""
    effective_batch: int
    """Of the chunk that was judged."""
    next_effective_batch: int | None = None
    """Of the next chunk, if the decision changes it."""
    launcher_pid: int | None
    dual_gpu_ok: bool | None
    evidence_paths: list[BundlePath]
    retries_used: int
    retries_max: int
    restarts_used: int
    degraded: bool = False
    recommendations: list[str] = []
    """What to change in the next full cycle."""
    observed: Withheld | None = None
    """Set where a run is only observed: what would have been done. All other fields say what is done."""

    def id_parts(self) -> tuple[object, ...]:
        """Stage and attempt."""
        return (self.stage, self.attempt)


class StageCompleted(Event):
    """A stage reached its target healthy."""

    name: ClassVar[str] = "stage_completed"
    stage: Stage
    step: int
    checkpoint: BundlePath
    best_checkpoint: BundlePath
    ordinal: int = 1

    def id_parts(self) -> tuple[object, ...]:
        """Stage and ordinal."""
        return (self.stage, self.ordinal)


class StageBlocked(Event):
    """A stage used up its budget."""

    name: ClassVar[str] = "stage_blocked"
    stage: GateStage
    blocking_factors: list[str]
    best_checkpoint: BundlePath | None
    ordinal: int = 1

    def id_parts(self) -> tuple[object, ...]:
        """Stage and ordinal."""
        return (self.stage, self.ordinal)
