"""The diagnosis as people and programs get it: what `worldloop diagnose --json` prints.

Numbers that cannot be measured are null, and a text beside them says why.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from shared.events import Stage, Verdict, WindowStats

Severity = Literal["normal", "watch", "critical"]
Kind = Literal["bundle", "results", "wandb", "history"]
Role = Literal["primary", "secondary", "not_involved", "unknown"]
SEVERITIES: tuple[Severity, ...] = ("normal", "watch", "critical")
"""Rising; the position is the exit code."""


class Part(BaseModel):
    """Base of everything in a diagnosis."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Finding(Part):
    """Something that is wrong."""

    name: str
    """gates, gate, divergence, non_finite, checkpoints_empty, checkpoints_stale, no_valid_checkpoint,
    checkpoint_invalid, visual_structure, no_history; of the run: inference, failed.
    """
    severity: Severity
    text: str
    """A sentence with value and threshold."""
    evidence: list[str] = []
    """Files it was read off."""


class Gate(Part):
    """A gate of a run of ours, or a third of a foreign history judged like one."""

    name: str
    step: int
    """Updates done there."""
    verdict: Verdict
    reason: str = ""
    """The recorded word (oom, gate_fail, ...); empty where nothing was recorded."""
    failed: list[str]
    """The checks that failed, each a sentence with value and threshold."""
    severe: bool = False
    entropy_collapsed: bool = False
    patch: dict[str, JsonValue] = {}
    """Knobs that the run changed itself then."""
    evidence: list[str] = []


class LossNumbers(Part):
    """The loss over a stage's whole history."""

    rows: int
    """Rows with a finite loss."""
    dropped_rows: int
    non_finite_rows: int
    first_step: int
    last_step: int
    final: float
    min: float
    median: float
    windows: WindowStats


class ActionNumbers(Part):
    """How latent actions are used, over a stage's whole history."""

    unique_last: float | None
    unique_mean: float | None
    share_at_one: float | None
    """Share of the rows with one action in use."""
    longest_at_one: float | None
    """Longest unbroken span of such rows, as a share of all."""
    entropy_last: float | None
    """Nats."""
    entropy_late: float | None
    """Mean of the last third, nats."""
    codebook_early: float | None
    codebook_late: float | None
    """Means of the first and last third, share of codes in use, 0..1."""


class Throughput(Part):
    """How fast updates come."""

    updates_per_sec: float
    frames_per_sec: float | None = None
    """Training frames, all ranks; none where the configuration is not known."""
    measured_on: str
    """`_runtime` or the times of two checkpoints."""


class Checkpoint(Part):
    """A checkpoint directory."""

    path: str
    step: int
    """Updates done."""
    valid: bool
    contents: bool
    """Its files were read and checked; without it only their presence and sizes were."""
    empty: bool
    """A model or optimizer file is missing or too small to hold anything."""
    problem: str | None = None
    size_bytes: int = 0
    modified: float = 0.0
    """Unix seconds."""


class Picture(Part):
    """One sheet, measured."""

    path: str
    step: int
    numbers: dict[str, float]
    """contrast, edges, ...: `shared.events.VisualNumbers` says what each means."""
    ok: bool
    """Within the policy's limits, whether they bind for the stage or not."""
    text: str


class Visuals(Part):
    """A stage's pictures: the earliest against the latest that can be read."""

    sheets: int
    early: Picture | None = None
    late: Picture | None = None
    problem: str | None = None
    """Why pictures cannot be judged."""


class StageDiagnosis(Part):
    """One stage."""

    stage: Stage
    verdict: Severity
    step: int | None
    """Updates done, as far as the files tell."""
    target: int | None
    log_interval: int | None
    findings: list[Finding]
    """Worst first."""
    notes: list[str] = []
    """What could not be looked at."""
    histories: list[str]
    loss: LossNumbers | None
    actions: ActionNumbers | None
    throughput: Throughput | None
    gates: list[Gate]
    """Oldest first."""
    checkpoints: list[Checkpoint]
    """Oldest first."""
    visuals: Visuals
    fallback: Checkpoint | None
    """Newest valid checkpoint: what can be trusted to go on from."""


class Criterion(Part):
    """One test of the causal verdict."""

    name: str
    question: str
    holds: bool | None
    """None: it cannot be measured here."""
    value: float | None
    threshold: float
    text: str
    evidence: list[str] = []


class Cause(Part):
    """Which stage began it."""

    primary: Literal["latent_actions", "dynamics", "mixed", "undetermined", "none"]
    """none: nothing is wrong; undetermined: something is, but neither stage's criteria mostly hold."""
    latent_actions: Role
    dynamics: Role
    text: str
    latent_criteria: list[Criterion]
    dynamics_criteria: list[Criterion]


class Action(Part):
    """Something to do."""

    text: str
    why: str
    stage: Stage | None = None
    patch: dict[str, JsonValue] = {}
    """Knobs to set, where the present ones are known."""


class Diagnosis(Part):
    """All of it."""

    path: str
    kind: Kind
    run_id: str | None
    status: str | None
    """Of a run of ours: running, passed, ..."""
    policy: str
    """Where the thresholds came from."""
    verdict: Severity
    wrong: list[str]
    """What is wrong, worst first, in short."""
    cause: Cause
    fallback: dict[Stage, str] = Field(default_factory=dict)
    """Newest valid checkpoint of each stage; a stage without one is missing."""
    change_now: list[Action]
    next_cycle: list[Action]
    """Both in the order of priority."""
    findings: list[Finding]
    """Of the run as a whole; each stage has its own."""
    stages: list[StageDiagnosis]
    notes: list[str]


def worst(severities: list[Severity]) -> Severity:
    """The gravest, normal if there is none."""
    return max(severities, key=SEVERITIES.index, default="normal")
