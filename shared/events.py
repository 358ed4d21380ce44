"""The glossary: every event, command and telemetry message, in pipeline order.

Events are facts in the past tense, commands are requests in the imperative. All are frozen, forbid unknown
fields, and know nobody: this module imports no other of ours. Paths are relative to the run's bundle.
A message's `id` is deterministic; whoever folds events ignores an id it has seen.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

Stage = Literal["video_tokenizer", "latent_actions", "dynamics"]
STAGES: tuple[Stage, ...] = get_args(Stage)
GateStage = Literal["video_tokenizer", "latent_actions", "dynamics", "inference"]
Service = Literal["trainer", "monitor", "gatekeeper", "inference", "reporter"]
SERVICES: tuple[Service, ...] = ("gatekeeper", "trainer", "monitor", "inference", "reporter")
Status = Literal["queued", "running", "paused", "passed", "stage_completed", "failed", "stopped"]
Verdict = Literal["continue", "watch", "retune"]
Decision = Literal["continue", "retune", "restart_stage", "stop"]
ChunkEnd = Literal["completed", "oom", "runtime_error", "non_finite", "stopped"]
Kind = Literal["event", "command", "telemetry"]

RUN_ID = re.compile(r"[0-9]{8}_[0-9]{6}(_[0-9]{1,6})?")
VERSION = 1
"""Of all schemas: rises when a field goes away or changes its meaning; a new one with a default leaves it."""
NO_RUN = "idle"  # stands for the run in a service's heartbeat while it works on none


def _run_id(value: str) -> str:
    if value != NO_RUN and not RUN_ID.fullmatch(value):
        raise ValueError(f"{value[:50]!r} is no run id: expected YYYYMMDD_HHMMSS or YYYYMMDD_HHMMSS_2")
    return value


def _inside(value: str) -> str:
    parts = value.split("/")
    if {"", ".", ".."} & set(parts) or "\\" in value or "\0" in value or ":" in parts[0]:
        text = f"{value[:200]!r} is no path inside the bundle: expected a relative path without '..'"
        raise ValueError(text)
    return value


RunId = Annotated[str, AfterValidator(_run_id)]
BundlePath = Annotated[str, AfterValidator(_inside)]
Document = dict[str, JsonValue]


class Value(BaseModel):
    """Base of everything that travels: frozen, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- values that several messages carry ------------------------------------------------------------------


class Schedule(Value):
    """One segment of the learning-rate schedule: warm-up, then cosine to 1 % of the peak."""

    peak: float = Field(gt=0)
    """Learning rate after warm-up."""
    start_step: int = Field(ge=0)
    """Update at which the segment begins (0 but for a segment after a failed inference gate)."""
    end_step: int = Field(gt=0)
    """Update at which the segment ends: the stage's target, not the chunk's."""


class ChunkPlan(Value):
    """Everything the trainer needs for one chunk; (run_id, stage, attempt) names it."""

    stage: Stage
    attempt: int = Field(ge=1)
    """Rises with every plan of the stage and is never reset."""
    start_step: int = Field(ge=0)
    """Updates done before the chunk."""
    target_step: int = Field(ge=0)
    """Absolute updates done when the chunk is over."""
    schedule: Schedule
    parameters: Document
    """The stage's complete resolved configuration (shared.config.StageConfig), knobs as retuned."""
    resume_from: BundlePath | None = None
    """Checkpoint directory to go on from; none starts fresh."""
    upstream: dict[Stage, BundlePath] = {}
    """Checkpoints of earlier stages that this stage reads."""
    ends_stage: bool = False
    """The chunk reaches the stage's target: the warm group ends with it."""
    overshoot: int = Field(default=0, ge=0)
    """Updates past the target at which it may end: 0 but for a checkout, which saves at log intervals."""


class CheckpointInfo(Value):
    """What the trainer found when it looked at a checkpoint directory."""

    path: BundlePath
    step: int
    """Updates done (TinyWorlds' directory number + 1)."""
    valid: bool
    problem: str | None = None
    """Why it is not valid."""
    size_bytes: int = 0


class WindowStats(Value):
    """Means of a column over windows of a chunk's history."""

    early: float
    mid: float
    late: float
    """Means of the thirds."""
    first10: float
    last10: float
    """Means of the first and last 10 % (at least one row)."""
    delta: float
    """last10 - first10: rising loss is positive."""


class LossLevels(Value):
    """Medians of the loss over equal blocks of a chunk's rows: single bad batches do not move them."""

    first: float
    """Of the chunk's first few rows."""
    lowest: float
    """Lowest of the blocks before the last."""
    last: float
    """Of the last block."""
    noise: float
    """Spread of single rows about their block's median: 1.4826 * MAD, median over the blocks."""


class HistoryStats(Value):
    """Statistics of the rows a chunk added to its stage's history."""

    file: BundlePath
    rows: int
    dropped_rows: int
    """Rows without a finite loss."""
    non_finite_rows: int = 0
    """Those of them that have a loss, which is not finite; the others have none."""
    non_finite_tail: int = 0
    """Those of them after the last finite loss."""
    first_step: int | None
    last_step: int | None
    covered_steps: int
    """Updates of the chunk that have a row."""
    final_loss: float | None
    min_loss: float | None
    median_loss: float | None
    loss: WindowStats | None
    levels: LossLevels | None = None
    """None for too few rows."""
    unique_actions: float | None = None
    action_entropy: float | None = None
    """Last value, nats of the distribution of codes within a batch."""
    codebook_usage: float | None = None
    """Last value, share of codes in use, 0..1."""
    learning_rate: float | None = None
    frames_per_sec: float | None = None
    update_seconds: float | None = None
    """Median time of an update; pauses for checkpoints do not move it."""
    slowdown: float | None = None
    """The same over the last third of the chunk, divided by that over the first."""


class VisualNumbers(Value):
    """Measurements on the newest visualization: generated frames compared with their originals."""

    sheet: BundlePath
    step: int
    fresh: bool
    """Written after the chunk started."""
    frames: int
    contrast: float
    """Spread of generated over original coarse structure; near 0 is near-constant output."""
    flat_blocks: float
    """Share of the detailed squares of the originals that came out as one flat colour, 0..1."""
    striping: float
    """Share of the generated energy that repeats at one frequency, beyond the original's, 0..1."""
    edges: float
    """Edge strength of generated over original frames at the originals' edges."""
    noise: float = 0.0
    """Share of the generated energy that is fine detail beyond the original's, 0..1."""
    frozen: float = 0.0
    """How much all generated frames show what moved where one same original has it, 0..1."""


class GpuSummary(Value):
    """One GPU over a chunk."""

    index: int
    samples: int
    active_samples: int
    """Samples at or above the utilization threshold."""
    max_utilization: float | None
    """Percent; none where it cannot be read."""
    mean_utilization: float | None
    max_memory_bytes: int
    ours: bool
    """The launcher's process tree was seen on it."""


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


class PerFrame(Value):
    """A number per generated frame, in order, with its mean."""

    mean: float
    values: list[float]


class CheckoutSpec(Value):
    """A TinyWorlds checkout that trains: its scripts, unmodified."""

    directory: str
    """Absolute path of the repository on the trainer's host; nothing is written there."""
    python: str
    """Absolute path of the interpreter that its scripts run with."""
    torchrun: str | None = None
    """Absolute path of its torchrun; none is `python -m torch.distributed.run`."""
    inference: Literal["own", "checkout"] = "own"
    """Who runs the inference test: worldloop's rollout, or the checkout's `scripts/run_inference.py`."""


class RunSpec(Value):
    """What a run is to do: resolved before anything starts."""

    bundle: str = Field(pattern=r"^(/|[A-Za-z]:[/\\]|\\\\)[^\x00]*$")
    """Absolute path of the bundle where the run was started; a service's own output root goes before it."""
    run_name: str = Field(pattern=r"^[0-9]{4}(_[0-9]{2}){5}_[a-z0-9_]+$")
    """YYYY_MM_DD_HH_MM_SS_<game>."""
    profile: str
    configuration: Document
    """training, video_tokenizer, latent_actions, dynamics, inference: each complete."""
    policy: Document
    """One section per service: gatekeeper, trainer, monitor, inference, reporter."""
    origins: dict[str, str]
    """Dotted key -> where its value came from (flag, checkpoint, profile, file)."""
    stages: list[Stage]
    """Stages to train, in order; empty runs inference and reports only."""
    inference: bool = True
    """Whether the run goes on to the inference gate."""
    checkpoints: dict[Stage, BundlePath] = {}
    """Given checkpoints, already copied into the bundle: of a trained stage its start, else what it uses."""
    given_steps: dict[Stage, int] = {}
    """Updates done in each of `checkpoints`."""
    observe: bool = False
    """Decide and record, never intervene."""
    backend: Literal["own", "checkout"] = "own"
    """Who trains: the built-in trainer, or a TinyWorlds checkout's own scripts."""
    checkout: CheckoutSpec | None = None
    """Which checkout; there whenever `backend` is `checkout`."""
    resumed_from: str | None = None
    """Run id this one goes on from."""


# --- the base of all messages -----------------------------------------------------------------------------


class Message(Value):
    """Base of all messages. `name` and `kind` are the class's, `id` is computed."""

    name: ClassVar[str]
    kind: ClassVar[Kind]

    run_id: RunId

    @property
    def id(self) -> str:
        """Deterministic id, unique within the deployment."""
        return "/".join((self.run_id, *(str(part) for part in self.id_parts()), self.name))

    def id_parts(self) -> tuple[object, ...]:
        """What tells two messages of this name apart within a run."""
        return ()


class Event(Message):
    """A fact."""

    kind: ClassVar[Kind] = "event"


class Command(Message):
    """A request to one service."""

    kind: ClassVar[Kind] = "command"
    service: ClassVar[Service]


class Telemetry(Message):
    """A reading that may be lost."""

    kind: ClassVar[Kind] = "telemetry"

    @property
    def id(self) -> str:
        """Telemetry is not deduplicated."""
        return ""


# --- commands of the operator -----------------------------------------------------------------------------


class OperatorCommand(Command):
    """An operator's wish; the gatekeeper appends it as an event before it is acked."""

    service: ClassVar[Service] = "gatekeeper"
    request_id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """Chosen by the sender, so that the same wish sent twice counts once."""

    def id_parts(self) -> tuple[object, ...]:
        """Name and request."""
        return (self.request_id,)


class StartRun(OperatorCommand):
    """Start a run, or queue it behind the one the trainer works on."""

    name: ClassVar[str] = "start_run"
    spec: RunSpec


class PauseRun(OperatorCommand):
    """Pause at the next gate."""

    name: ClassVar[str] = "pause_run"


class ResumeRun(OperatorCommand):
    """Go on with a paused, stopped or failed run; budgets start anew."""

    name: ClassVar[str] = "resume_run"


class StopRun(OperatorCommand):
    """End the chunk after its current update and a checkpoint, then report."""

    name: ClassVar[str] = "stop_run"
    reason: str = "the operator asked"


class RetuneRun(OperatorCommand):
    """Patch the next plan: knobs only, floors kept, no budget spent."""

    name: ClassVar[str] = "retune_run"
    changes: dict[str, JsonValue]
    """Knob -> new value; architecture keys are refused."""
    stage: Stage | None = None
    """Stage to patch; none is the current one."""


# --- start of a run ---------------------------------------------------------------------------------------


class OperatorRequested(Event):
    """An operator's command was accepted."""

    name: ClassVar[str] = "operator_requested"
    request: Literal["start_run", "pause_run", "resume_run", "stop_run", "retune_run"]
    request_id: str
    arguments: Document = {}
    """The command's own fields."""

    def id_parts(self) -> tuple[object, ...]:
        """The request."""
        return (self.request, self.request_id)


class CommandRejected(Event):
    """An operator's command was refused."""

    name: ClassVar[str] = "command_rejected"
    request: str
    request_id: str
    reason: str

    def id_parts(self) -> tuple[object, ...]:
        """The request."""
        return (self.request, self.request_id)


class RunQueued(Event):
    """The run waits: the trainer works on another."""

    name: ClassVar[str] = "run_queued"
    spec: RunSpec
    behind: list[str]
    """Run ids before this one."""


class RunStarted(Event):
    """The run has the trainer."""

    name: ClassVar[str] = "run_started"
    spec: RunSpec


class StageStarted(Event):
    """A stage begins."""

    name: ClassVar[str] = "stage_started"
    stage: Stage
    start_step: int
    target_step: int
    resume_from: BundlePath | None
    ordinal: int = 1
    """Times the stage was begun in this run: a failed inference gate begins dynamics again."""

    def id_parts(self) -> tuple[object, ...]:
        """Stage and ordinal."""
        return (self.stage, self.ordinal)


# --- one chunk --------------------------------------------------------------------------------------------


class ChunkCommand(Command):
    """Train one chunk. Acked once `chunk_started` is durable; only `chunk_done` answers it."""

    service: ClassVar[Service] = "trainer"
    plan: ChunkPlan
    retry: int = 0
    """Times the command was sent again because nothing came of it."""

    def id_parts(self) -> tuple[object, ...]:
        """Stage, attempt, and which sending it is."""
        return (self.plan.stage, self.plan.attempt, self.retry)


class StartChunk(ChunkCommand):
    """First chunk of a stage."""

    name: ClassVar[str] = "start"


class ContinueChunk(ChunkCommand):
    """Next chunk after an accepted gate."""

    name: ClassVar[str] = "continue"


class RetuneChunk(ChunkCommand):
    """Again, with changed knobs or evidence wanting."""

    name: ClassVar[str] = "retune"


class RestartChunk(ChunkCommand):
    """Again from the best checkpoint, or fresh."""

    name: ClassVar[str] = "restart"


class StopChunk(Command):
    """End the chunk after its current update and a checkpoint."""

    name: ClassVar[str] = "stop"
    service: ClassVar[Service] = "trainer"
    stage: Stage
    attempt: int

    def id_parts(self) -> tuple[object, ...]:
        """Stage and attempt."""
        return (self.stage, self.attempt)


class JoinChunk(Command):
    """Start this host's part of a launch: from node 0's trainer to that of each other host of the chunk."""

    name: ClassVar[str] = "join"
    service: ClassVar[Service] = "trainer"
    plan: ChunkPlan
    launch: int = Field(ge=1)
    node_rank: int = Field(ge=1)
    """The host it is for; its subject ends with it."""

    def id_parts(self) -> tuple[object, ...]:
        """Stage, attempt, launch, host."""
        return (self.plan.stage, self.plan.attempt, self.launch, self.node_rank)


class ChunkEvent(Event):
    """An event about one chunk."""

    stage: Stage
    attempt: int

    def id_parts(self) -> tuple[object, ...]:
        """Stage and attempt."""
        return (self.stage, self.attempt)


class ChunkStarted(ChunkEvent):
    """The trainer took the plan."""

    name: ClassVar[str] = "chunk_started"
    plan: ChunkPlan
    launch: int = 1
    """Rises with each relaunch of the same attempt."""
    resume_step: int | None = None
    """Updates done that this launch goes on from; none is the plan's start."""
    recount: bool = False
    """The launch before was ended because a checkout's script counts otherwise than thought; none failed."""
    launcher_pid: int
    host: str
    warm: bool = False
    """Handed to a process group that was already running."""
    device: str
    """cpu or cuda."""
    world_size: int

    def id_parts(self) -> tuple[object, ...]:
        """Stage, attempt, launch."""
        return (self.stage, self.attempt, self.launch)


class NodeEvent(ChunkEvent):
    """An event about another host's part of a launch; node 0's is `chunk_started` and `chunk_done`."""

    launch: int
    node_rank: int
    host: str
    launcher_pid: int
    """Of that host's torchrun agent; 0 where none was started."""

    def id_parts(self) -> tuple[object, ...]:
        """Stage, attempt, launch, host."""
        return (self.stage, self.attempt, self.launch, self.node_rank)


class NodeJoined(NodeEvent):
    """A host has started its part of a launch."""

    name: ClassVar[str] = "node_joined"


class NodeLost(NodeEvent):
    """A host's part of a launch ended before the launch did."""

    name: ClassVar[str] = "node_lost"
    exit_code: int | None
    death: Literal["oom", "killed", "failed", "peer"]
    """Why, as far as that host can tell: `peer` is that the connection to another host was lost."""
    stderr_tail: str = ""


class LauncherKilled(Event):
    """A training launcher that should not have been alive was ended."""

    name: ClassVar[str] = "launcher_killed"
    pid: int
    command_line: str
    why: str
    started_at: Annotated[float, Field(allow_inf_nan=False)]
    """Unix seconds; tells a reused pid apart."""

    def id_parts(self) -> tuple[object, ...]:
        """Process."""
        return (self.pid, int(self.started_at))


class ChunkDone(ChunkEvent):
    """The chunk is over, one way or another."""

    name: ClassVar[str] = "chunk_done"
    reason: ChunkEnd
    exit_code: int | None = None
    """None for a warm group that goes on living."""
    start_step: int
    end_step: int
    target_step: int
    launch: int
    launcher_pid: int
    device: str
    world_size: int
    checkpoints: list[CheckpointInfo]
    """The stage's lineage, oldest first."""
    visualization: BundlePath | None = None
    """Newest sheet."""
    history: BundlePath | None = None
    """CSV of this attempt's rows."""
    wandb_run_id: str | None = None
    wandb_dir: BundlePath | None = None
    seconds: float
    """Wall time from the first launch to here."""
    cpu_seconds: list[float] = []
    """CPU seconds per rank."""
    timing: dict[str, float] = {}
    """Unix times `first_update_begin`, `last_update_end`; durations `checkpoint`, `visualization`, in s."""
    stderr_tail: str = ""

    @property
    def group_lives_on(self) -> bool:
        """Whether a warm group waits for the next plan."""
        return self.reason == "completed" and self.exit_code is None


# --- evidence ---------------------------------------------------------------------------------------------


class GpuEvidence(ChunkEvent):
    """What the GPUs, or the CPU ranks, did during the chunk."""

    name: ClassVar[str] = "gpu_evidence"
    evidence: Literal["nvml", "cpu_ranks", "none"]
    observed: bool = True
    """False when samples are missing and those kept cannot show `dual_gpu_ok`."""
    dual_gpu_ok: bool | None
    process_ok: bool | None = None
    util_ok: bool | None = None
    decided_by: Literal["utilization", "processes"] | None = None
    samples: int = 0
    longest_gap_sec: float = 0.0
    gpus: list[GpuSummary] = []
    cpu_seconds: list[float] = []
    """Per rank, for `cpu_ranks`."""
    problem: str | None = None
    file: BundlePath | None = None
    """The samples."""


class ArtifactEvidence(ChunkEvent):
    """Measurements on the chunk's files; no judgement."""

    name: ClassVar[str] = "artifact_evidence"
    history: HistoryStats | None
    history_problem: str | None = None
    visual: VisualNumbers | None
    visual_problem: str | None = None


class AlertRaised(Event):
    """A channel has been silent for longer than its limit, or a service reports trouble."""

    name: ClassVar[str] = "alert_raised"
    channel: str
    """progress, history, checkpoint, visualization, gpu, ...; or checkpoints_empty, checkpoints_stale,
    dead_letters_<service>.
    """
    silence_sec: float
    """0, as the limit, where it is not silence that is reported."""
    limit_sec: float
    stage: Stage | None = None
    attempt: int | None = None
    detail: str = ""
    ordinal: int = 1

    def id_parts(self) -> tuple[object, ...]:
        """Stage, attempt, channel, count."""
        return (self.stage, self.attempt, self.channel, self.ordinal)


class EvidenceTimedOut(ChunkEvent):
    """A gate has waited too long for its evidence."""

    name: ClassVar[str] = "evidence_timed_out"
    missing: list[str]
    waited_sec: float


class CommandTimedOut(Event):
    """Nothing came of a command and its service gives no sign of working on it."""

    name: ClassVar[str] = "command_timed_out"
    command: str
    """Id of the command."""
    service: Service
    waited_sec: float
    retry: int
    """The sending that failed, from 0."""

    def id_parts(self) -> tuple[object, ...]:
        """The command's sending."""
        return (self.service, self.command.replace("/", "."), self.retry)


# --- the gate ---------------------------------------------------------------------------------------------


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


# --- inference gate ---------------------------------------------------------------------------------------


class EvaluateInference(Command):
    """Run the standard inference test on the selected checkpoints."""

    name: ClassVar[str] = "evaluate_inference"
    service: ClassVar[Service] = "inference"
    inference_try: int = Field(ge=1)
    retry: int = 0
    checkpoints: dict[Stage, BundlePath]
    settings: Document
    """The resolved inference configuration (shared.config.InferenceConfig)."""

    def id_parts(self) -> tuple[object, ...]:
        """Try and sending."""
        return (self.inference_try, self.retry)


class InferenceDone(Event):
    """All numbers of the inference test. MSE in [0, 1] pixels over generated frames only."""

    name: ClassVar[str] = "inference_done"
    inference_try: int
    retry: int = 0
    ok: bool
    """The test ran to its end; says nothing about quality."""
    problem: str | None = None
    mode: Literal["autoregressive", "teacher-forced"] = "autoregressive"
    checkpoints: dict[Stage, BundlePath] = {}
    """The three that were used."""
    picture: BundlePath | None = None
    video: BundlePath | None = None
    preview: BundlePath | None = None
    """The same, animated, for where no video plays."""
    video_problem: str | None = None
    """Why the video or the preview was not written; never fails the test."""
    actions: Literal["inferred", "random", "given", "none"] = "inferred"
    """What told the model where to go."""
    gated_by: Literal["mse", "mse_standard"] = "mse"
    """Which number the limit holds for: `mse_standard` when one clip was asked for, as the reference does."""
    frames_expected: int = 0
    frames_inferred: int = 0
    clips: int = 0
    held_out: bool = False
    mse: float | None = None
    mse_low: float | None = None
    mse_high: float | None = None
    """95 % interval over clips."""
    mse_standard: float | None = None
    """The reference's number: one clip, random actions, copied context averaged in."""
    mse_per_frame: list[float] = []
    persistence_mse: float | None = None
    persistence_per_frame: list[float] = []
    mean_frame_mse: float | None = None
    mean_frame_per_frame: list[float] = []
    skill: float | None = None
    """1 - mse / persistence_mse."""
    skill_low: float | None = None
    skill_high: float | None = None
    skill_per_frame: list[float] = []
    mean_frame_skill: float | None = None
    """Skill of the mean frame of the training part."""
    psnr: float | None = None
    psnr_low: float | None = None
    psnr_high: float | None = None
    psnr_per_frame: list[float] = []
    ssim: float | None = None
    ssim_low: float | None = None
    ssim_high: float | None = None
    ssim_per_frame: list[float] = []
    tokenizer_mse: float | None = None
    tokenizer_psnr: float | None = None
    """Reconstruction of the same frames: the ceiling."""
    tokenizer_per_frame: list[float] = []
    """Its MSE."""
    delta_psnr: float | None = None
    """PSNR with inferred minus PSNR with random actions among codes in use, dB."""
    delta_psnr_low: float | None = None
    delta_psnr_high: float | None = None
    delta_psnr_per_frame: list[float] = []
    """Up to the frame that `delta_psnr` is taken at, the last of them."""
    motion_ratio: float | None = None
    motion_ratio_per_frame: list[float] = []
    """From the second generated frame on; empty where one of the targets does not move."""
    seen_share: float | None = None
    """Share of target frames that occur exactly in the training part."""
    seen_per_frame: list[float] = []
    intervals_per_frame: dict[str, list[tuple[float, float]]] = {}
    """Number -> its 95 % interval over clips at each frame; empty for a single clip."""
    actions_in_use: int | None = None
    """Codes that occur over the held-out part."""
    actions_total: int | None = None
    seconds: float = 0.0

    @property
    def gating(self) -> float | None:
        """The number that the gate's limit holds for."""
        return self.mse if self.gated_by == "mse" else self.mse_standard

    def id_parts(self) -> tuple[object, ...]:
        """Try and sending."""
        return (self.inference_try, self.retry)


# --- end of a run -----------------------------------------------------------------------------------------


class WriteReports(Command):
    """Write the reports of a run's outcome."""

    name: ClassVar[str] = "write_reports"
    service: ClassVar[Service] = "reporter"
    outcome: Status
    reason: str
    degraded: bool
    kinds: list[str]
    ordinal: int = 1
    """Times the run came to an end: again after a resume, or when a required kind failed."""
    retry: int = 0

    def id_parts(self) -> tuple[object, ...]:
        """Ordinal and sending."""
        return (self.ordinal, self.retry)


class ReportWritten(Event):
    """A report was written, or could not be."""

    name: ClassVar[str] = "report_written"
    report: str
    """Kind: loop, inference, retrospective, git, wandb."""
    path: BundlePath | None
    ok: bool
    error: str | None = None
    ordinal: int = 1

    def id_parts(self) -> tuple[object, ...]:
        """Ordinal and kind."""
        return (self.ordinal, self.report)


class RunPaused(Event):
    """The run waits for the operator, or for evidence."""

    name: ClassVar[str] = "run_paused"
    by: Literal["operator", "evidence"]
    reason: str
    ordinal: int = 1

    def id_parts(self) -> tuple[object, ...]:
        """Ordinal."""
        return (self.ordinal,)


class RunResumed(Event):
    """The run goes on."""

    name: ClassVar[str] = "run_resumed"
    by: Literal["operator", "evidence"]
    reason: str
    ordinal: int = 1

    def id_parts(self) -> tuple[object, ...]:
        """Ordinal."""
        return (self.ordinal,)


class RunFinished(Event):
    """The end, until an operator resumes it."""

    name: ClassVar[str] = "run_finished"
    status: Status
    degraded: bool
    reason: str
    mode: str = "autoregressive"
    ordinal: int = 1

    def id_parts(self) -> tuple[object, ...]:
        """Ordinal."""
        return (self.ordinal,)


# --- telemetry --------------------------------------------------------------------------------------------


class TrainProgress(Telemetry):
    """Where the current chunk is."""

    name: ClassVar[str] = "train_progress"
    stage: Stage
    attempt: int
    step: int
    target_step: int
    stage_target: int
    loss: float | None
    learning_rate: float
    frames_per_sec: float
    """Training frames consumed per second, all ranks."""
    eta_sec: float
    """To the stage's target."""


class GpuSample(Telemetry):
    """One reading of one GPU."""

    name: ClassVar[str] = "gpu_sample"
    index: int
    utilization: float | None
    memory_bytes: int
    memory_total_bytes: int
    pids: list[int]
    problem: str | None = None
    """What the driver could not say, and why."""


class Heartbeat(Telemetry):
    """A service lives, and what it works on."""

    name: ClassVar[str] = "heartbeat"
    service: Service
    pid: int
    host: str
    node_rank: int = 0
    """Which host of a chunk that spans several a trainer is."""
    working_on: list[str]
    """Ids of commands in work."""


# --- tables, wire form ------------------------------------------------------------------------------------


def _leaves(base: type[Message]) -> list[type[Message]]:
    found: list[type[Message]] = []
    for child in base.__subclasses__():
        if "name" in child.__dict__:
            found.append(child)
        found.extend(_leaves(child))
    return found


MESSAGES: dict[tuple[str, str], type[Message]] = {
    (m.kind, f"{m.service}.{m.name}" if issubclass(m, Command) else m.name): m for m in _leaves(Message)
}
"""(kind, name) -> class; a command's name is prefixed with its service."""

WRITERS: dict[str, Service] = {
    "chunk_started": "trainer",
    "chunk_done": "trainer",
    "node_joined": "trainer",
    "node_lost": "trainer",
    "launcher_killed": "trainer",
    "gpu_evidence": "monitor",
    "artifact_evidence": "monitor",
    "alert_raised": "monitor",
    "inference_done": "inference",
    "report_written": "reporter",
}
"""The one service that writes each event; those not listed are the gatekeeper's."""


def subject(message: Message) -> str:
    """The NATS subject a message is published on."""
    if isinstance(message, Command):
        host = f".{message.node_rank}" if isinstance(message, JoinChunk) else ""
        return f"worldloop.{message.run_id}.command.{message.service}.{message.name}{host}"
    return f"worldloop.{message.run_id}.{message.kind}.{message.name}"


def schema_urn(message: type[Message]) -> str:
    """Which schema a message follows, and its version: `dataschema` of CloudEvents."""
    return f"urn:worldloop:{message.kind}:{message.name}:{VERSION}"


def message_class(on_subject: str) -> type[Message] | None:
    """The class of the messages on a subject, none if there is no such subject."""
    parts = on_subject.split(".")
    if len(parts) < 4 or parts[0] != "worldloop":
        return None
    name = parts[3:-1] if parts[2] == "command" and parts[-1].isdecimal() else parts[3:]  # less the host
    return MESSAGES.get((parts[2], ".".join(name)))


def as_document(message: Message) -> dict[str, Any]:
    """A message as plain JSON types."""
    return message.model_dump(mode="json")
