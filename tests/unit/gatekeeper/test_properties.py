"""Whatever happens, in whatever order: promises that no run may break."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as some

from services.gatekeeper.core.limits import waiting
from services.gatekeeper.core.pipeline import commands, decide
from services.gatekeeper.core.state import RunState
from shared.events import (
    STAGES,
    GateDecided,
    ReportWritten,
    RetuneRun,
    RunFinished,
    RunResumed,
    WriteReports,
)
from tests.unit.gatekeeper.policies import policies
from tests.unit.gatekeeper.story import HEALTHY, Outcome, Story, run_spec

FLOORS = {"video_tokenizer": 2, "latent_actions": 1, "dynamics": 3}

outcomes = some.builds(
    Outcome,
    reason=some.sampled_from(["completed"] * 6 + ["oom", "runtime_error", "non_finite"]),
    checkpoint=some.sampled_from(["valid"] * 6 + ["invalid", "none", "all invalid"]),
    fresh_picture=some.sampled_from([True] * 6 + [False]),
    good_picture=some.sampled_from([True] * 3 + [False]),
    history=some.sampled_from([True] * 8 + [False]),
    loss=some.sampled_from([None, None, None, 0.015, 7.0]),
    rise=some.sampled_from([-0.1, -0.1, 0.0, 0.5]),
    unique_actions=some.sampled_from([4.0, 4.0, 1.0]),
    action_entropy=some.sampled_from([1.2, 0.3, 0.0]),
    device=some.sampled_from(["cpu", "cuda"]),
    dual_gpu_ok=some.sampled_from([True, True, True, False, None]),
    observed=some.sampled_from([True] * 5 + [False]),
    silent_monitor=some.sampled_from([False] * 6 + [True]),
    dead_trainer=some.sampled_from([False] * 10 + [True]),
    in_work=some.sampled_from([False] * 5 + [True]),
)
tests = some.lists(
    some.sampled_from(
        [{}, {"mse": 0.5}, {"skill": -1.0}, {"ok": False, "problem": "died"}, {"picture": None}]
    ),
    max_size=8,
)
wishes = some.lists(
    some.tuples(
        some.integers(0, 4),
        some.sampled_from(["pause", "resume", "stop", "retune batch", "retune rate", "wait", "wait"]),
    ),
    max_size=10,
)
"""Steps to go before it, and what an operator does then."""
POLICIES = policies(absolute_loss_from=some.sampled_from([0.0, 0.5, 1.0]), min_batch_size=some.just(FLOORS))


class Chaos(Story):
    """A story whose chunks go as they are drawn, and whose operator acts between events."""

    def __init__(
        self, spec: Any, drawn: list[Outcome], tests: list[dict[str, Any]], unwritten: int = 0
    ) -> None:
        super().__init__(spec=spec, tests=[dict(each) for each in tests], failing_reports={"loop": unwritten})
        self.drawn = drawn

    def _train(self, plan: Any) -> None:
        key = (plan.stage, plan.attempt)
        if key not in self.outcomes:
            self.outcomes[key] = self.drawn.pop() if self.drawn else HEALTHY
        super()._train(plan)

    def wish(self, what: str) -> None:
        if what == "retune batch":
            self.retune(batch_size_per_gpu=4)
        elif what == "retune rate":
            self.ask(
                RetuneRun(run_id=self.run_id, request_id=f"q{len(self.log)}", changes={"learning_rate": 1e-4})
            )
        elif what == "wait":
            self.pass_time()
        else:
            {"pause": self.pause, "resume": self.resume, "stop": self.stop}[what]()

    def pass_time(self) -> None:
        """What is in work ends; what was asked for does not come."""
        if self.step():
            return
        chunk = self.state.chunk
        if chunk is not None and chunk.started is not None and chunk.done is None:
            self.finish(chunk.plan)
        else:
            if waiting(self.state) is not None:
                self.time_passes()

    def to_the_end(self) -> None:
        """Until the run has ended; an operator resumes it when it is paused."""
        for _ in range(200):
            self.play()
            if self.state.finished is not None and not self.state.resume_wanted:
                return
            if self.state.paused is not None:
                self.resume()
            else:
                self.pass_time()
        raise AssertionError("no end:\n" + self.text)


@settings(max_examples=100, deadline=None)
@given(
    policy=POLICIES,
    drawn=some.lists(outcomes, max_size=12),
    tests=tests,
    wishes=wishes,
    unwritten=some.sampled_from([0, 0, 1]),
)
def test_every_run_ends_with_reports_and_breaks_no_promise(
    policy: dict[str, Any],
    drawn: list[Outcome],
    tests: list[dict[str, Any]],
    wishes: list[tuple[int, str]],
    unwritten: int,
) -> None:
    story = Chaos(run_spec(policy=policy), list(drawn), tests, unwritten).start()
    for steps, what in wishes:
        for _ in range(steps):
            story.step()
        story.wish(what)
    story.to_the_end()

    last = next(event for event in reversed(story.events) if isinstance(event, RunFinished))
    assert last.status in ("passed", "failed", "stopped")
    asked = [command for command in story.sent if isinstance(command, WriteReports)]
    assert asked
    assert last.status in {command.outcome for command in asked if command.ordinal == last.ordinal} | {
        "failed"
    }
    if last.status == "passed":
        passing = [gate for gate in story.gates if gate.stage == "inference" and gate.decision == "continue"]
        written = {e.report for e in story.events if isinstance(e, ReportWritten) and e.ok}
        assert passing
        assert written >= {"loop", "inference"}

    assert max(Counter((gate.stage, gate.attempt) for gate in story.gates).values(), default=1) == 1
    assert [plan.attempt for plan in story.plans if plan.stage == "dynamics"] == sorted(
        plan.attempt for plan in story.plans if plan.stage == "dynamics"
    )
    check_knobs(story)
    check_budgets(story, policy)
    check_progress(story)
    assert story.refolded() == story.state
    assert decide(story.state) == []
    assert commands(story.state) == []


def check_knobs(story: Story) -> None:
    """No batch below its floor, no rate raised but by the operator."""
    for stage in STAGES:
        rates = [plan.schedule.peak for plan in story.plans if plan.stage == stage]
        asked = "learning_rate" in story.text  # an operator's retune is told
        assert asked or rates == sorted(rates, reverse=True)
    for plan in story.plans:
        batch, floor = plan.parameters["batch_size_per_gpu"], FLOORS[plan.stage]
        assert isinstance(batch, int)
        assert batch >= floor
        assert plan.start_step < plan.target_step <= plan.schedule.end_step
        log_interval = plan.parameters["log_interval"]
        assert isinstance(log_interval, int)
        assert log_interval <= 5


def check_budgets(story: Story, policy: dict[str, Any]) -> None:
    """Between an operator's resumes no budget is exceeded."""
    for event in story.events:
        if isinstance(event, GateDecided) and event.stage != "inference":
            assert event.retries_used <= policy["max_retries"]
            assert event.restarts_used <= policy["max_restarts"]
    restarts: Counter[str] = Counter()
    for event in story.events:
        if isinstance(event, RunResumed) and event.by == "operator":
            restarts.clear()
        if isinstance(event, GateDecided) and event.decision == "restart_stage":
            restarts[event.stage] += 1
            assert restarts[event.stage] <= policy["max_restarts"]


def check_progress(story: Story) -> None:
    """The accepted step of a stage falls only by a restart (or a checkpoint that went bad)."""
    accepted: dict[str, int] = {}
    for gate in story.gates:
        if gate.decision == "restart_stage" or (
            gate.reason != "healthy" and gate.resume_step < gate.gate_step
        ):
            accepted[gate.stage] = min(accepted.get(gate.stage, 0), gate.resume_step)
        if gate.accepted_checkpoint is not None:
            assert gate.gate_step > accepted.get(gate.stage, -1)
            accepted[gate.stage] = gate.gate_step


@settings(max_examples=30, deadline=None)
@given(drawn=some.lists(outcomes, max_size=8), data=some.data())
def test_repeated_and_reordered_evidence_decides_the_same(
    drawn: list[Outcome], data: some.DataObject
) -> None:
    story = Chaos(run_spec(stages=("video_tokenizer",), inference=False), list(drawn), [])
    story.to_the_end()
    replayed = Story(story.spec)
    replayed.state = RunState(story.run_id)
    for recorded in story.log:
        replayed.record(recorded.message)  # type: ignore[arg-type]
        again = data.draw(some.sampled_from(story.log[: recorded.sequence]))
        replayed.record(again.message)  # type: ignore[arg-type]
    assert replayed.status == story.status
    assert replayed.state.stages == story.state.stages
    assert replayed.state.chunk == story.state.chunk
