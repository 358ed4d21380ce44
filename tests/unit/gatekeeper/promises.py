"""What no run may ever break, told from the log alone and checked at every event.

The gatekeeper's own counters are not believed here: budgets, attempts, checkpoints and degradation are
counted again from the events.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from services.gatekeeper.core.fold import fold
from services.gatekeeper.core.pipeline import commands, decide
from services.gatekeeper.core.state import RunState, StageState
from shared.bus.protocol import Recorded
from shared.config import KNOBS, RunConfig
from shared.events import (
    ChunkDone,
    ChunkPlan,
    Command,
    CommandTimedOut,
    Document,
    Event,
    GateDecided,
    OperatorRequested,
    ReportWritten,
    RunFinished,
    RunResumed,
    Stage,
    Status,
    WriteReports,
)

FREE = ("gpu_unobserved", "no_evidence")
SUSPECT = ("non_finite", "gate_fail", "loss_spike", "stagnation", "visual_collapse")
"""Failures after which nothing beyond the accepted gate is gone on with."""
FLOORS: dict[Stage, int] = {"video_tokenizer": 2, "latent_actions": 1, "dynamics": 3}
LOG_INTERVAL_FLOOR = 2
NEXT: dict[Status, set[Status]] = {
    "queued": {"running", "stopped", "failed"},
    "running": {"paused", "passed", "stage_completed", "stopped", "failed"},
    "paused": {"running", "stopped", "failed"},
    "stopped": {"queued", "running"},
    "failed": {"queued", "running"},
    "passed": set(),
    "stage_completed": set(),
}
"""Status -> what may come after it."""


@dataclass
class StageBook:
    """One stage, counted from the events."""

    attempt: int = 0
    plan: ChunkPlan | None = None
    """Its newest."""
    wished: set[str] = field(default_factory=set)
    """Knobs an operator has asked for since its newest plan."""
    highest: int = 0
    failures: int = 0
    """Failed gates since the budget began."""
    restarts: int = 0
    unobserved: int = 0
    """Chunks trained again since the last accepted gate because nobody watched."""
    checkpoints: dict[str, tuple[int, bool]] = field(default_factory=dict)
    """Of the lineage: path -> step and whether it is valid, as last heard."""


@dataclass
class Book:
    """One run, counted from the events."""

    state: RunState
    history: list[tuple[Recorded, RunState]] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    """Of the events that came."""
    stages: dict[str, StageBook] = field(default_factory=dict)
    decided: set[tuple[str, int]] = field(default_factory=set)
    done: dict[tuple[str, int], str] = field(default_factory=dict)
    """Stage and attempt -> how its chunk ended."""
    retrained: int = 0
    """Inference gates that sent dynamics back since the budget began."""
    gates: int = 0
    """Since an operator last did something."""
    degraded: bool = False
    reports: dict[int, dict[str, bool]] = field(default_factory=dict)
    """Ordinal of an ending -> kind -> whether it was written."""
    unanswered: Counter[str] = field(default_factory=Counter)
    """Command -> times it was timed out."""
    seen: Counter[str] = field(default_factory=Counter)
    """What this run has been through, for the statistics."""
    _configured: dict[str, Document] = field(default_factory=dict)

    def stage(self, stage: str) -> StageBook:
        """A stage's part."""
        return self.stages.setdefault(stage, StageBook())

    def configured(self, stage: Stage) -> Document:
        """The parameters the run was started with."""
        if stage not in self._configured:
            assert self.state.spec is not None
            config = RunConfig.model_validate(self.state.spec.configuration).stage(stage)
            self._configured[stage] = config.model_dump(mode="json")
        return self._configured[stage]


class Promises:
    """Everything that was promised about the runs of one log."""

    def __init__(self) -> None:
        self.books: dict[str, Book] = {}
        self._implied: dict[str, Command] = {}
        """Every command that some state of the log implied."""

    @property
    def runs(self) -> dict[str, RunState]:
        """What the log says now."""
        return {run_id: book.state for run_id, book in self.books.items()}

    def takes_new(self, event: Event) -> None:
        """A gatekeeper's event says something that was not said before."""
        known = self.books.get(event.run_id)
        assert known is None or event.id not in known.ids, f"recorded again: {event.id}"
        if event.name in ("run_started", "run_resumed") and getattr(event, "by", "operator") == "operator":
            self._has_its_turn(event)

    def take(self, recorded: Recorded) -> None:
        """An event is in the log now."""
        event = recorded.message
        assert isinstance(event, Event)
        book = self.books.setdefault(event.run_id, Book(RunState(event.run_id)))
        before = book.state
        after = book.state = fold(before, recorded)
        book.history.append((recorded, after))
        if event.id in book.ids:
            assert after == before.past(recorded.sequence), f"{event.id} counted twice"
            return
        book.ids.add(event.id)
        self._note(book, before, event)
        if before.status != after.status and before.spec is not None:
            assert after.status in NEXT[before.status], f"{before.status} became {after.status}"
        for stage in after.stages.values():
            _accepted_step_stands(before, stage, event)
        chunk = after.chunk
        if chunk is not None and (before.chunk is None or before.chunk.plan != chunk.plan):
            self._planned(book, before, chunk.plan)
        assert after.degraded == book.degraded, f"degraded is {after.degraded} after {event.name}"
        for command in commands(after):
            known = self._implied.setdefault(command.id, command)
            assert known == command, f"{command.id} is two commands"

    def command(self, command: Command) -> None:
        """A gatekeeper publishes a command."""
        known = self._implied.get(command.id)
        assert known == command, f"nothing in the log implies {command.id}"
        book = self.books[command.run_id]
        assert book.state.started or book.state.ending or book.state.finished, "a queued run has a command"

    def at_the_end(self) -> None:
        """Every run is over; and whoever reads the log from its beginning knows the same at every point."""
        for book in self.books.values():
            state = book.state
            assert state.finished is not None
            assert decide(state) == []
            assert commands(state) == []
            again = RunState(state.run_id)
            for recorded, live in book.history:
                again = fold(again, recorded)
                assert again == live, f"replayed otherwise: {recorded.message.id}"

    # --- one event ----------------------------------------------------------------------------------------

    def _note(self, book: Book, before: RunState, event: Event) -> None:
        book.seen[event.name] += 1
        match event:
            case OperatorRequested():
                book.gates = 0
                if event.request == "retune_run":
                    changes = event.arguments["changes"]
                    assert isinstance(changes, dict)
                    book.stage(str(event.arguments["stage"])).wished |= set(changes)
            case RunResumed(by="operator"):
                book.retrained = book.gates = 0
                for stage in book.stages.values():
                    stage.failures = stage.restarts = stage.unobserved = 0
            case ChunkDone():
                _done(book, before, event)
            case GateDecided(stage="inference"):
                self._tested(book, before, event)
            case GateDecided():
                self._decided(book, before, event)
            case ReportWritten():
                book.reports.setdefault(event.ordinal, {}).setdefault(event.report, event.ok)
            case CommandTimedOut():
                book.unanswered[event.command] += 1
            case RunFinished():
                self._finished(book, before, event)
            case _:
                pass

    def _decided(self, book: Book, before: RunState, gate: GateDecided) -> None:
        key = (gate.stage, gate.attempt)
        assert key not in book.decided, "one gate, two decisions"
        book.decided.add(key)
        assert key in book.done, "decided before chunk_done"
        _says_why(gate)
        stage, policy = book.stage(gate.stage), before.policy
        plan = stage.plan
        assert plan is not None
        assert before.chunk is not None
        chunk = before.chunk
        assert chunk.plan == plan
        rests_on = (chunk.started, chunk.done, chunk.gpu, chunk.artifacts)
        assert {each.attempt for each in rests_on if each is not None} == {gate.attempt}, "of another attempt"
        observed = before.spec is not None and before.spec.observe
        if gate.reason in SUSPECT and gate.decision == "retune" and not observed:
            accepted = before.stages[chunk.plan.stage].accepted
            assert gate.resume_step <= (accepted.step if accepted is not None else 0), "suspect weights"
        book.seen[f"gate {gate.reason}"] += 1
        book.seen[f"decision {gate.decision}"] += 1
        _floor(gate.config_patch_applied, gate.stage, plan)
        failed = gate.accepted_checkpoint is None and gate.reason != "stopped"
        stage.restarts += gate.decision == "restart_stage"
        if failed and gate.reason not in FREE:
            stage.failures += gate.decision != "stop"
        assert stage.failures <= policy.max_retries, "the budget of retries is exceeded"
        assert stage.restarts <= policy.max_restarts, "the budget of restarts is exceeded"
        if gate.decision == "stop" and failed:
            spent = stage.failures == policy.max_retries or stage.restarts == policy.max_restarts
            assert spent, "stopped with budget left"
        stage.unobserved += gate.reason == "gpu_unobserved" and failed
        assert stage.unobserved <= 1, "a chunk nobody watched was trained again and again"
        if gate.accepted_checkpoint is not None:
            stage.unobserved = 0
            if gate.resume_step > stage.highest and policy.retry_budget == "progress":
                stage.failures = 0
            stage.highest = max(stage.highest, gate.resume_step)
        if gate.reason in ("oom", "runtime_error") and not observed:
            book.degraded |= _number(plan.parameters["batch_size_per_gpu"]) <= FLOORS[plan.stage]
        lowered = gate.config_patch_applied.get("batch_size_per_gpu") == 1
        book.degraded |= lowered and plan.parameters["batch_size_per_gpu"] != 1
        book.gates += 1
        assert book.gates <= gates_bound(book), "no end"

    def _tested(self, book: Book, before: RunState, gate: GateDecided) -> None:
        key = (gate.stage, gate.attempt)
        assert key not in book.decided, "one test, two decisions"
        book.decided.add(key)
        assert all(before.stages[name].completed for name in before.stages), "tested before it was trained"
        _says_why(gate)
        book.seen[f"inference {gate.decision}"] += 1
        book.retrained += gate.decision == "retune"
        assert book.retrained <= before.policy.max_inference_retries, "the budget of tests is exceeded"
        book.gates += 1

    def _finished(self, book: Book, before: RunState, event: RunFinished) -> None:
        book.seen[f"finished {event.status}"] += 1
        asked = [
            command
            for command in self._implied.values()
            if isinstance(command, WriteReports)
            and (command.run_id, command.ordinal) == (event.run_id, event.ordinal)
        ]
        written = book.reports.get(event.ordinal, {})
        assert asked, f"{event.status} without write_reports"
        timed_out = sum(book.unanswered[command.id] for command in asked)
        given_up = timed_out > before.policy.max_command_retries
        assert set(written) >= set(asked[0].kinds) or given_up, "finished before its reports"
        assert event.degraded == book.degraded
        chunk = before.chunk
        if chunk is not None and chunk.done is None:
            of_it = f"{event.run_id}/{chunk.plan.stage}/{chunk.plan.attempt}/"
            assert any(command.startswith(of_it) for command in book.unanswered), "a chunk was left alone"
        if event.status in ("passed", "stage_completed"):
            assert all(written.get(kind) for kind in asked[0].kinds)
            assert all(stage.completed for stage in before.stages.values())
        if event.status == "passed":
            assert before.inference_passed

    # --- one plan -----------------------------------------------------------------------------------------

    def _planned(self, book: Book, before: RunState, plan: ChunkPlan) -> None:
        stage = book.stage(plan.stage)
        state = book.state
        assert state.started
        assert state.finished is None, "a plan of a run that is over"
        assert plan.attempt == stage.attempt + 1, "attempts rise by one"
        first = state.stages[plan.stage]
        assert plan.start_step < plan.target_step <= plan.schedule.end_step == first.target
        assert plan.ends_stage == (plan.target_step == first.target)
        if plan.resume_from is None:
            assert plan.start_step == 0, "goes on without a checkpoint"
        else:
            given = before.spec.given_steps.get(plan.stage) if before.spec is not None else None
            known = stage.checkpoints.get(plan.resume_from, (given, plan.resume_from.startswith("given/")))
            assert known == (plan.start_step, True), f"resumes from {plan.resume_from}, which is {known}"
        configured = book.configured(plan.stage)
        for key, value in plan.parameters.items():
            if key not in (*KNOBS, "n_updates"):
                assert value == configured[key], f"{key} changed within the run"
        earlier = stage.plan.parameters if stage.plan is not None else configured
        _floor(plan.parameters, plan.stage, plan)
        _not_raised(plan, earlier, "learning_rate", stage.wished)
        _not_raised(plan, earlier, "log_interval", stage.wished)
        assert plan.schedule.peak == plan.parameters["learning_rate"]
        lowest = min(LOG_INTERVAL_FLOOR, _number(earlier["log_interval"]))
        assert _number(plan.parameters["log_interval"]) >= lowest or "log_interval" in stage.wished
        batches = earlier["batch_size_per_gpu"], plan.parameters["batch_size_per_gpu"]
        book.degraded |= batches[0] != 1 and batches[1] == 1
        stage.attempt, stage.plan, stage.wished = plan.attempt, plan, set()
        lineage = stage.checkpoints.items()
        stage.checkpoints = {path: found for path, found in lineage if found[0] <= plan.start_step}

    def _has_its_turn(self, event: Event) -> None:
        mine = self.runs[event.run_id]
        for other in self.runs.values():
            if other.unfinished and other.ending is None and other.run_id != mine.run_id:
                assert other.queued_since > mine.queued_since, f"{other.run_id} has the trainer"


def gates_bound(book: Book) -> int:
    """Most gates a run can have until an operator does something.

    Let m be the shortest chunk, T the furthest target. An accepted gate lies m or more beyond the accepted
    step before it, unless it reaches the target: so N = ceil(T / m) of them lead from nothing to the end, and
    at most N go beyond the highest ever. Between two such there are at most max_retries + 1 failures, each of
    which sets the stage back to nothing at worst; and each climb has, per accepted gate, one free repeat of a
    chunk nobody watched. A stage thus has no more than (N + 1) (R + 2) (2 N + 2) gates; dynamics is begun
    again after each failed inference gate.
    """
    policy, total = book.state.policy, 0
    for stage in book.state.stages.values():
        chunk = policy.chunk.of(stage.stage)
        again = policy.max_inference_retries if stage.stage == "dynamics" else 0
        furthest = _number(book.configured(stage.stage)["n_updates"]) + chunk * policy.max_retries
        furthest = max(furthest, stage.target) + again * policy.retry_chunk
        climb = -(-furthest // min(chunk, LOG_INTERVAL_FLOOR))
        total += (climb + 1) * (policy.max_retries + 2) * (2 * climb + 2) * (again + 1)
    return total + policy.max_inference_retries + 1


def _accepted_step_stands(before: RunState, stage: StageState, event: Event) -> None:
    known = before.stages.get(stage.stage)
    if known is None or known.accepted is None:
        return
    fallen = stage.accepted is None or stage.accepted.step < known.accepted.step
    restarted = isinstance(event, GateDecided) and "restart_stage" in (
        event.decision,
        event.decision_on_resume,
    )
    assert not fallen or restarted, f"the accepted step of {stage.stage} fell by {event.name}"


def _done(book: Book, before: RunState, event: ChunkDone) -> None:
    book.seen[f"chunk {event.reason}"] += 1
    if before.chunk is None or (event.stage, event.attempt) != (
        before.chunk.plan.stage,
        before.chunk.plan.attempt,
    ):
        book.seen["late"] += 1
        return  # of the past: nobody asks what it left
    book.done.setdefault((event.stage, event.attempt), event.reason)
    book.stage(event.stage).checkpoints |= {info.path: (info.step, info.valid) for info in event.checkpoints}


def _says_why(gate: GateDecided) -> None:
    broken = [reason for reason in gate.reasons if not reason.ok]
    assert gate.reasons
    if gate.verdict == "retune" or gate.decision in ("retune", "restart_stage", "stop"):
        assert broken, f"{gate.reason}, and no reason is not ok"
        measured = [each for each in broken if each.threshold is not None and each.text]
        assert measured, f"{gate.reason} without a threshold"
        assert any(each.value is not None or "no" in each.text for each in measured), "no value and no why"


def _floor(parameters: object, stage: str, plan: ChunkPlan) -> None:
    assert isinstance(parameters, dict)
    batch = parameters.get("batch_size_per_gpu", FLOORS[plan.stage])
    assert batch >= FLOORS[plan.stage], f"{stage}: batch {batch} is below its floor"


def _not_raised(plan: ChunkPlan, earlier: object, knob: str, wished: set[str]) -> None:
    assert isinstance(earlier, dict)
    value = plan.parameters[knob]
    assert knob in wished or value <= earlier[knob], f"{knob} rose from {earlier[knob]} to {value}"


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value
