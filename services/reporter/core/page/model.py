"""What the live page shows of a run: what the server sends, the static page holds and `watch` prints.

A page loads the whole document once and then gets patches: an object with only the top-level fields that
changed. Fields in `ROWS` are lists of rows with an `id`: a patch of them holds only rows that are new or have
changed, in order; the page replaces by id or appends. All times are unix seconds: the page shows ages by its
own clock, corrected by `now`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from shared.events import Decision, GateStage, Stage, Status, Verdict

StageState = Literal[
    "waiting", "training", "at gate", "paused", "complete", "given", "blocked", "not asked for"
]
Level = Literal["info", "good", "watch", "bad"]
Action = Literal["pause", "resume", "stop", "retune"]
ROWS = ("stages", "gates", "attempts", "sheets", "notes", "gpus", "services", "reports")
"""Fields that are lists of rows with an `id`."""


class Part(BaseModel):
    """Base of all parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Link(Part):
    """A file of the bundle, by its path in it."""

    text: str
    path: str


class RunRow(Part):
    """A run in the list of runs."""

    run_id: str
    run_name: str
    status: Status
    degraded: bool
    stage: GateStage | None
    began: float
    ended: float | None


class Measured(Part):
    """A gate's value against its threshold."""

    name: str
    check: int | None
    value: str
    """As people read it; `none` where there is none."""
    threshold: str
    ok: bool
    text: str
    """What it means, a sentence."""


class StageRow(Part):
    """A stage, or the inference gate."""

    id: str
    stage: GateStage
    state: StageState
    step: int
    """Updates done as far as is known: the newest progress, else what training goes on from."""
    accepted_step: int
    """Of the last accepted gate."""
    chunk_target: int | None
    target: int
    attempt: int
    gates: int
    loss: float | None
    learning_rate: float | None
    updates_per_sec: float | None
    frames_per_sec: float | None
    eta: float | None
    """Unix time when the stage's target is reached, as of the newest progress."""
    retries_used: int
    retries_max: int
    restarts_used: int
    restarts_max: int
    rungs: list[str]
    """What the stage's ladder changes at a failed gate, in order, as `learning_rate * 0.5`."""
    climbed: list[str]
    """What failed gates have changed so far, newest last, as `learning_rate 3e-4 -> 1.5e-4 (attempt 3)`."""
    checkpoint: Link | None
    """Newest accepted."""
    best: Link | None


class GateRow(Part):
    """A gate that was decided."""

    id: str
    time: float
    stage: GateStage
    attempt: int
    start_step: int
    step: int
    decision: Decision
    verdict: Verdict
    reason: str
    """One word."""
    why: str
    """A sentence: what decided it."""
    values: list[Measured]
    metrics: dict[str, float | None]
    changes: dict[str, JsonValue]
    """Knobs that change with the decision."""
    resume_from: Link | None
    resume_step: int
    accepted: bool
    superseded: bool
    """Its updates were rolled back later, or by itself."""
    effective_batch: int
    retries_used: int
    retries_max: int
    dual_gpu_ok: bool | None
    degraded: bool
    observed: str | None
    """What would have been done, where the run is only observed."""
    evidence: list[Link]
    recommendations: list[str]


class AttemptRow(Part):
    """One chunk: where it came from, and what became of it."""

    id: str
    stage: Stage
    attempt: int
    parent: str | None
    """Id of the attempt whose checkpoint it goes on from; none if fresh or given."""
    start_step: int
    end_step: int | None
    """None while it runs."""
    target_step: int
    superseded_from: int | None
    """Updates from here on were rolled back."""
    launches: int
    warm: bool
    began: float
    ended: float | None
    end: str | None
    """completed, oom, runtime_error, non_finite, stopped."""
    decision: Decision | None
    parameters: dict[str, JsonValue]
    device: str


class SheetRow(Part):
    """A visualization, or an inference picture."""

    id: str
    stage: GateStage
    attempt: int
    step: int
    path: str
    """In the bundle."""
    superseded: bool
    verdict: str
    """What the structure check said, one phrase; empty if none did."""


class Note(Part):
    """Something a person may want to know: an alert, a refusal, a time-out, a relaunch, a pause, an end."""

    id: str
    time: float
    level: Level
    text: str


class GpuRow(Part):
    """A GPU, or the CPU's ranks where there is none."""

    id: str
    name: str
    utilization: float | None
    """Percent."""
    memory: int | None
    memory_total: int | None
    """Bytes."""
    recent: list[tuple[float, float | None]]
    """Newest last: unix time and percent, at most 120."""
    problem: str | None


class ServiceRow(Part):
    """A service of the stack."""

    id: str
    service: str
    pid: int | None
    host: str | None
    heard: float | None
    """Unix time of the newest heartbeat; none if there was none."""
    working_on: list[str]
    waiting: int | None
    """Messages its consumers have not yet taken."""
    unsettled: int | None
    """Messages taken and neither acked nor given back."""
    dead: int | None
    """Messages of this run that it could not handle."""


class ReportRow(Part):
    """A report that was written, or could not be."""

    id: str
    kind: str
    path: str | None
    error: str | None
    time: float


class Spent(Part):
    """A kind of time."""

    name: Literal[
        "training", "redone", "gate", "checkpoint", "starting", "inference", "reports", "paused", "waiting"
    ]
    seconds: float
    meaning: str


class Goodput(Part):
    """Where the time went."""

    fraction: float | None
    """Useful over all; none before there is any."""
    definition: str
    spent: list[Spent]
    """They add up to the time since the run started."""


class Inference(Part):
    """The newest inference test."""

    time: float
    inference_try: int
    passed: bool | None
    problem: str | None
    mode: str
    values: list[Measured]
    """Gating numbers first."""
    numbers: dict[str, float | None]
    picture: str | None
    preview: str | None


class Page(Part):
    """A run."""

    version: int = 1
    now: float
    """The server's clock as this was made."""
    live: bool
    """Whether it comes from a server that can act; false in the static page."""
    run: RunRow
    bundle: str
    profile: str
    dataset: str
    mode: str
    phase: str
    """What is being done now, a sentence."""
    reason: str
    """Why the run has its status."""
    requested: list[str]
    """What the operator asked for and is not done yet."""
    actions: list[Action]
    """What can be asked for now."""
    knobs: dict[str, JsonValue]
    """What `retune` can change at the current stage, with the values now."""
    eta: float | None
    """Unix time when the last stage's target is reached; none where a stage's speed is not known yet."""
    stages: list[StageRow]
    gates: list[GateRow]
    attempts: list[AttemptRow]
    sheets: list[SheetRow]
    notes: list[Note]
    gpus: list[GpuRow]
    services: list[ServiceRow]
    reports: list[ReportRow]
    inference: Inference | None
    goodput: Goodput


class Curve(Part):
    """A column of one attempt's history, thinned out: all rows of a point lie between its low and high."""

    attempt: int
    superseded_from: int | None
    step: list[int]
    """Updates done; at most as many as asked for in all curves together."""
    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]


class History(Part):
    """A stage's history between two steps."""

    stage: Stage
    column: str
    """As in the history files: `train/loss`, `learning_rate/group_0`, `action_entropy`, ..."""
    columns: list[str]
    """What there is."""
    first: int
    last: int
    """Steps there are rows for, over all attempts."""
    rows: int
    """Rows that were read for this."""
    curves: list[Curve]
