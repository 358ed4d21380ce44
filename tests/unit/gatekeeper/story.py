"""Plays the other services against the gatekeeper's pure core, and writes down the story."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Self, cast

from services.gatekeeper.core.fold import fold
from services.gatekeeper.core.limits import waiting
from services.gatekeeper.core.pipeline import commands, decide
from services.gatekeeper.core.requests import answer
from services.gatekeeper.core.state import RunState
from shared.bus.protocol import Recorded
from shared.events import (
    STAGES,
    ArtifactEvidence,
    CheckpointInfo,
    ChunkCommand,
    ChunkDone,
    ChunkEnd,
    ChunkPlan,
    ChunkStarted,
    Command,
    CommandRejected,
    CommandTimedOut,
    EvaluateInference,
    Event,
    EvidenceTimedOut,
    GateDecided,
    GpuEvidence,
    HistoryStats,
    InferenceDone,
    OperatorCommand,
    OperatorRequested,
    PauseRun,
    ReportWritten,
    ResumeRun,
    RetuneRun,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunSpec,
    Stage,
    StageBlocked,
    StageCompleted,
    StageStarted,
    StartRun,
    StopChunk,
    StopRun,
    VisualNumbers,
    WindowStats,
    WriteReports,
)

RUN_ID = "20261121_120000"
LOSS: dict[Stage, float] = {"video_tokenizer": 0.009, "latent_actions": 0.05, "dynamics": 4.0}
"""Healthy losses; they fall a little with every update."""


@dataclass(frozen=True)
class Outcome:
    """How the others do with one chunk; the default is a healthy one."""

    reason: ChunkEnd = "completed"
    end_step: int | None = None
    """None reaches the target, or for a chunk that did not complete gets half-way."""
    checkpoint: Literal["valid", "invalid", "none", "all invalid"] = "valid"
    fresh_picture: bool = True
    good_picture: bool = True
    history: bool = True
    covered: int | None = None
    """Updates with a row; none covers the chunk."""
    loss: float | None = None
    """Final loss; none is a healthy one."""
    rise: float = -0.1
    """Rise over the chunk, as a share of the loss."""
    unique_actions: float = 4
    action_entropy: float = 1.2
    measured: Mapping[str, Any] = field(default_factory=dict)
    """What else the monitor finds in the history: fields of `HistoryStats`."""
    device: str = "cpu"
    dual_gpu_ok: bool | None = None
    observed: bool = True
    silent_monitor: bool = False
    """No evidence comes."""
    dead_trainer: bool = False
    """Nobody takes the command."""
    in_work: bool = False
    """The chunk has started and goes on."""


HEALTHY = Outcome()
DIVERGING = Outcome(loss=7.0, rise=0.5)
COLLAPSED = Outcome(unique_actions=1, action_entropy=0.0)


def configuration(**sections: Mapping[str, Any]) -> dict[str, Any]:
    """A small run's configuration: 20 updates a stage."""
    knobs = {
        "batch_size_per_gpu": 8,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "log_interval": 5,
        "n_updates": 20,
    }
    found: dict[str, Any] = {stage: dict(knobs) for stage in STAGES}
    found |= {"training": {"nproc_per_node": 2}, "inference": {}}
    for section, values in sections.items():
        found[section] = {**found[section], **values}
    return found


def run_spec(
    *,
    stages: tuple[Stage, ...] = STAGES,
    policy: Mapping[str, Any] | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    **fields: Any,
) -> RunSpec:
    """What a small run is to do: chunks of 10 updates."""
    gatekeeper = {"chunk": dict.fromkeys(STAGES, 10), "retry_chunk": 10, **(policy or {})}
    return RunSpec(
        bundle="/runs/" + RUN_ID,
        run_name="2026_11_21_12_00_00_pong",
        profile="test",
        configuration=configuration(**(config or {})),
        policy={"gatekeeper": gatekeeper},
        origins={},
        stages=list(stages),
        **fields,
    )


UPSTREAM: dict[str, Any] = {
    "checkpoints": {
        "video_tokenizer": "given/video_tokenizer_step_99",
        "latent_actions": "given/latent_actions_step_49",
    },
    "given_steps": {"video_tokenizer": 100, "latent_actions": 50},
}


def only(stage: Stage, **fields: Any) -> RunSpec:
    """One stage's run; dynamics goes on to the inference gate, on given upstream checkpoints."""
    if stage == "dynamics":
        return run_spec(stages=(stage,), **{**UPSTREAM, **fields})
    return run_spec(stages=(stage,), inference=False, **fields)


@dataclass
class Story:
    """A run as it goes; `lines` is its story.

    Args:
        outcomes: (stage, attempt) -> how that chunk goes; the others are healthy.
        tests: How the inference tests go, one after the other; after the last all pass.
        failing_reports: Kinds that cannot be written, as often as the number says.
    """

    spec: RunSpec = field(default_factory=run_spec)
    outcomes: dict[tuple[str, int], Outcome] = field(default_factory=dict)
    tests: list[dict[str, Any]] = field(default_factory=list)
    failing_reports: dict[str, int] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    """Services that answer nothing."""
    run_id: str = RUN_ID
    ahead: list[str] = field(default_factory=list)
    log: list[Recorded] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    messages: list[Event | Command] = field(default_factory=list)
    """Events and commands as they came."""
    sent: list[Command] = field(default_factory=list)
    state: RunState = field(init=False)
    lineage: dict[str, dict[int, bool]] = field(default_factory=dict)
    """Stage -> step -> whether the checkpoint there is valid."""
    requests: int = 0

    def __post_init__(self) -> None:
        self.state = RunState(self.run_id)

    # --- playing ------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Ask for the run."""
        return self.ask(StartRun(run_id=self.run_id, request_id="start", spec=self.spec))

    def play(self, *, limit: int = 500) -> Self:
        """Start if that was not done, and go on until everybody waits."""
        if not self.log:
            self.start()
        for _ in range(limit):
            if not self.step():
                return self
        raise AssertionError("the story has no end:\n" + self.text)

    def step(self) -> bool:
        """Decide, and have the new commands answered; whether there were any."""
        self.settle()
        known = {sent.id for sent in self.sent}
        waits = self.ahead and self.state.ending is None
        fresh = [each for each in ([] if waits else commands(self.state)) if each.id not in known]
        for command in fresh:
            self.sent.append(command)
            self._note(command)
            self._answer(command)
        return bool(fresh)

    def settle(self) -> Self:
        """Append what the gatekeeper decides, until it has nothing to say."""
        for _ in range(100):
            events = decide(self.state, self.ahead)
            if not events:
                return self
            for event in events:
                self.record(event)
        raise AssertionError("the gatekeeper never stops talking:\n" + self.text)

    def record(self, event: Event) -> Self:
        """Append an event to the log."""
        recorded = Recorded(len(self.log) + 1, datetime.now(UTC), "test", event)
        self.log.append(recorded)
        self.state = fold(self.state, recorded)
        self._note(event)
        return self

    def ask(self, command: OperatorCommand) -> Self:
        """An operator's command."""
        event = answer(self.state, command)
        return self if event is None else self.record(event)

    def _request(self) -> dict[str, str]:
        self.requests += 1
        return {"run_id": self.run_id, "request_id": f"r{self.requests}"}

    def pause(self) -> Self:
        return self.ask(PauseRun(**self._request()))

    def resume(self) -> Self:
        return self.ask(ResumeRun(**self._request()))

    def stop(self) -> Self:
        return self.ask(StopRun(**self._request()))

    def retune(self, stage: Stage | None = None, **changes: Any) -> Self:
        return self.ask(
            RetuneRun(run_id=self.run_id, request_id=f"t{len(self.log)}", changes=changes, stage=stage)
        )

    def time_passes(self) -> Self:
        """Whatever is waited for with a limit does not come in time."""
        wait = waiting(self.state)
        assert wait is not None, "nothing is waited for"
        return self.record(wait.over.model_copy(update={"waited_sec": wait.limit_sec}))

    # --- the others ---------------------------------------------------------------------------------------

    def _answer(self, command: Command) -> None:
        if command.service in self.dead:
            return
        if isinstance(command, ChunkCommand):
            self._train(command.plan)
        elif isinstance(command, StopChunk):
            self._stop_chunk(command)
        elif isinstance(command, EvaluateInference):
            self._test(command)
        elif isinstance(command, WriteReports):
            self._report(command)

    def _train(self, plan: ChunkPlan) -> None:
        how = self.outcomes.get((plan.stage, plan.attempt), HEALTHY)
        if how.dead_trainer:
            return
        steps = self.lineage.setdefault(plan.stage, {})
        for step in [step for step in steps if step > plan.start_step]:
            del steps[step]
        self.record(chunk_started(plan, how, self.run_id))
        if how.in_work:
            return
        self.finish(plan, how)

    def finish(self, plan: ChunkPlan, how: Outcome = HEALTHY) -> Self:
        """The chunk ends, and the monitor looks at it."""
        half = (plan.start_step + plan.target_step) // 2
        default = plan.target_step if how.reason == "completed" else half
        end = default if how.end_step is None else how.end_step
        steps = self.lineage.setdefault(plan.stage, {})
        save(steps, plan, how, end)
        self.record(chunk_done(plan, how, end, steps, self.run_id))
        return self if how.silent_monitor else self.measure(plan, how)

    def measure(self, plan: ChunkPlan, how: Outcome = HEALTHY) -> Self:
        """The monitor's evidence."""
        self.record(gpu_evidence(plan, how, self.run_id))
        return self.record(artifact_evidence(plan, how, self.run_id))

    def _stop_chunk(self, command: StopChunk) -> None:
        chunk = self.state.chunk
        if chunk is not None and (chunk.plan.stage, chunk.plan.attempt) == (command.stage, command.attempt):
            self.finish(chunk.plan, Outcome(reason="stopped", silent_monitor=True))

    def _test(self, command: EvaluateInference) -> None:
        numbers = self.tests.pop(0) if self.tests else {}
        self.record(inference_done(command, numbers))

    def _report(self, command: WriteReports) -> None:
        for kind in command.kinds:
            left = self.failing_reports.get(kind, 0)
            self.failing_reports[kind] = left - 1
            self.record(
                ReportWritten(
                    run_id=self.run_id,
                    report=kind,
                    path=None if left > 0 else f"docs/action/{kind}.md",
                    ok=left <= 0,
                    error="the disk is full" if left > 0 else None,
                    ordinal=command.ordinal,
                )
            )

    # --- reading ------------------------------------------------------------------------------------------

    @property
    def events(self) -> list[Event]:
        return [cast("Event", recorded.message) for recorded in self.log]

    @property
    def status(self) -> str:
        return self.state.status

    @property
    def gates(self) -> list[GateDecided]:
        return [event for event in self.events if isinstance(event, GateDecided)]

    @property
    def plans(self) -> list[ChunkPlan]:
        return [command.plan for command in self.sent if isinstance(command, ChunkCommand)]

    @property
    def last_plan(self) -> ChunkPlan:
        return self.plans[-1]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def refolded(self) -> RunState:
        """The state that a gatekeeper has which knows nothing but the log."""
        state = RunState(self.run_id)
        for recorded in self.log:
            state = fold(state, recorded)
        return state

    def _note(self, message: Event | Command) -> None:
        self.messages.append(message)
        line = describe(message)
        if line is not None:
            self.lines.append(line)


def describe(message: Event | Command) -> str | None:
    """One line of the story; none for what is not worth one."""
    match message:
        case OperatorRequested():
            what = {key: value for key, value in message.arguments.items() if key != "spec"}
            return f"operator: {message.request}" + (f" {what}" if what else "")
        case CommandRejected():
            return f"refused: {message.request}: {message.reason}"
        case RunQueued():
            return f"queued behind {', '.join(message.behind)}"
        case StageStarted():
            origin = f" from {message.resume_from}" if message.resume_from else ""
            return f"{message.stage}: begins at {message.start_step}, target {message.target_step}{origin}"
        case ChunkCommand():
            plan = message.plan
            return f"  -> trainer: {message.name} #{plan.attempt} {plan.start_step}..{plan.target_step}"
        case StopChunk():
            return f"  -> trainer: stop #{message.attempt}"
        case ChunkDone():
            return f"  chunk done: {message.reason} at {message.end_step}"
        case GateDecided():
            patch = ", ".join(f"{key}={value:g}" for key, value in message.config_patch_applied.items())  # type: ignore[str-bytes-safe,unused-ignore]
            patch = f" [{patch}]" if patch else ""
            left = f" ({message.retries_used}/{message.retries_max})" if message.retries_used else ""
            return f"{message.stage} #{message.attempt}: {message.decision}, {message.reason}{left}{patch}"
        case StageCompleted():
            return f"{message.stage}: completed at {message.step}"
        case StageBlocked():
            return f"{message.stage}: blocked"
        case EvaluateInference():
            return f"  -> inference: test {message.inference_try}.{message.retry}"
        case InferenceDone():
            return "  test done" if message.ok else f"  test failed: {message.problem}"
        case WriteReports():
            return f"  -> reporter: {message.outcome} #{message.ordinal}"
        case ReportWritten():
            return None if message.ok else f"  report {message.report} failed"
        case RunPaused():
            return f"paused by {message.by}: {message.reason}"
        case RunResumed():
            return f"resumed by {message.by}"
        case EvidenceTimedOut():
            return f"  no {', '.join(message.missing)} in time"
        case CommandTimedOut():
            return f"  no answer from {message.service} (sending {message.retry})"
        case RunFinished():
            return f"finished: {message.status}" + (", degraded" if message.degraded else "")
        case _:
            return None


# --- what the others say ----------------------------------------------------------------------------------


def checkpoint(stage: str, step: int) -> str:
    return f"results/run/{stage}/checkpoints/{stage}_step_{step - 1}"


def chunk_started(plan: ChunkPlan, how: Outcome = HEALTHY, run_id: str = RUN_ID) -> ChunkStarted:
    return ChunkStarted(
        run_id=run_id,
        stage=plan.stage,
        attempt=plan.attempt,
        plan=plan,
        launcher_pid=100 + plan.attempt,
        host="box",
        device=how.device,
        world_size=2,
    )


def save(steps: dict[int, bool], plan: ChunkPlan, how: Outcome, end: int) -> None:
    """What a chunk that came to `end` makes of the stage's checkpoints: step -> whether it is valid."""
    if how.checkpoint == "none":
        steps.clear()
    elif how.checkpoint == "all invalid":
        steps.update(dict.fromkeys((*steps, end), False))
    elif end > plan.start_step:
        steps[end] = how.checkpoint == "valid"


def chunk_done(
    plan: ChunkPlan, how: Outcome, end: int, steps: Mapping[int, bool], run_id: str = RUN_ID
) -> ChunkDone:
    return ChunkDone(
        run_id=run_id,
        stage=plan.stage,
        attempt=plan.attempt,
        reason=how.reason,
        start_step=plan.start_step,
        end_step=end,
        target_step=plan.target_step,
        launch=1,
        launcher_pid=100 + plan.attempt,
        device=how.device,
        world_size=2,
        checkpoints=[
            CheckpointInfo(path=checkpoint(plan.stage, step), step=step, valid=valid)
            for step, valid in sorted(steps.items())
        ],
        seconds=1.0,
    )


def gpu_evidence(plan: ChunkPlan, how: Outcome = HEALTHY, run_id: str = RUN_ID) -> GpuEvidence:
    return GpuEvidence(
        run_id=run_id,
        stage=plan.stage,
        attempt=plan.attempt,
        evidence="cpu_ranks" if how.device == "cpu" else "nvml",
        observed=how.observed,
        dual_gpu_ok=how.dual_gpu_ok,
    )


def artifact_evidence(plan: ChunkPlan, how: Outcome = HEALTHY, run_id: str = RUN_ID) -> ArtifactEvidence:
    return ArtifactEvidence(
        run_id=run_id,
        stage=plan.stage,
        attempt=plan.attempt,
        history=history(plan, how) if how.history else None,
        history_problem=None if how.history else "the file is missing",
        visual=visual(how, step=plan.target_step),
    )


def history(plan: ChunkPlan, how: Outcome = HEALTHY) -> HistoryStats:
    healthy = LOSS[plan.stage] * 0.99**plan.target_step
    final = healthy if how.loss is None else how.loss
    first = final * (1 - how.rise)
    rows = plan.target_step - plan.start_step
    covered = rows if how.covered is None else how.covered
    return HistoryStats(
        file=f"Logs/history/{plan.stage}/attempt_{plan.attempt:04d}.csv",
        rows=covered,
        dropped_rows=0,
        first_step=plan.start_step,
        last_step=plan.target_step - 1,
        covered_steps=covered,
        final_loss=final,
        min_loss=min(first, final),
        median_loss=(first + final) / 2,
        loss=windows(first, final),
        unique_actions=None if plan.stage == "video_tokenizer" else how.unique_actions,
        action_entropy=None if plan.stage == "video_tokenizer" else how.action_entropy,
    ).model_copy(update=dict(how.measured))


def windows(first: float, last: float) -> WindowStats:
    """Windows of a loss that goes in a straight line."""
    between = last - first
    return WindowStats(
        early=first + between / 6,
        mid=first + between / 2,
        late=last - between / 6,
        first10=first,
        last10=last,
        delta=between,
    )


def visual(how: Outcome = HEALTHY, *, step: int = 10) -> VisualNumbers:
    good = how.good_picture
    return VisualNumbers(
        sheet=f"results/run/visualizations/sheet_{step - 1}.png",
        step=step,
        fresh=how.fresh_picture,
        frames=16,
        contrast=0.9 if good else 0.02,
        flat_blocks=0.1 if good else 0.95,
        striping=0.02,
        edges=0.7 if good else 0.05,
    )


def inference_done(command: EvaluateInference, numbers: Mapping[str, Any]) -> InferenceDone:
    good: dict[str, Any] = {
        "ok": True,
        "checkpoints": dict(command.checkpoints),
        "picture": f"inference_results/gt_vs_pred_{command.inference_try}_{command.retry}.png",
        "frames_expected": 96,
        "frames_inferred": 96,
        "mse": 0.01,
        "skill": 0.6,
        "tokenizer_mse": 0.002,
    }
    return InferenceDone(
        run_id=command.run_id,
        inference_try=command.inference_try,
        retry=command.retry,
        **{**good, **numbers},
    )
