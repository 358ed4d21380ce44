"""What controllers elsewhere got wrong: a healthy job was recovered 24 times because nobody heard of it, and
state of an old attempt had every new one killed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from services.gatekeeper.core.limits import waiting
from services.gatekeeper.core.orders import chunk_command, stop_command
from services.gatekeeper.core.pipeline import commands, decide
from services.gatekeeper.core.state import Chunk
from shared.events import (
    AlertRaised,
    ChunkPlan,
    CommandTimedOut,
    Event,
    EvidenceTimedOut,
    GateDecided,
    Heartbeat,
    LauncherKilled,
    ReportWritten,
)
from tests.unit.gatekeeper.story import (
    HEALTHY,
    RUN_ID,
    Outcome,
    Story,
    artifact_evidence,
    chunk_done,
    chunk_started,
    gpu_evidence,
    inference_done,
    only,
)

SHORT = only("video_tokenizer")
IN_WORK = Outcome(in_work=True)

# --- loss of signal is not failure ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(measured={"learning_rate": None, "codebook_usage": None}),
        Outcome(measured={"frames_per_sec": None, "update_seconds": None, "slowdown": None}),
        Outcome(measured={"levels": None}),
        Outcome(measured={"dropped_rows": 9}),
        Outcome(observed=False),
        Outcome(device="cuda", dual_gpu_ok=True, measured={"frames_per_sec": None}),
    ],
    ids=["columns", "throughput", "levels", "empty cells", "GPU samples", "throughput on GPUs"],
)
def test_loss_of_signal_is_not_failure(outcome: Outcome) -> None:
    story = Story(SHORT, {("video_tokenizer", number): outcome for number in (1, 2)}).play()
    assert story.status == "stage_completed"
    assert [(gate.decision, gate.retries_used) for gate in story.gates] == [("continue", 0)] * 2


def test_loss_of_signal_is_not_failure_while_a_chunk_trains() -> None:
    story = Story(SHORT, {("video_tokenizer", 1): IN_WORK}).play()
    before = story.state.chunk
    assert before is not None
    for count in range(24):
        story.record(
            AlertRaised(run_id=RUN_ID, channel="progress", silence_sec=999, limit_sec=180, ordinal=count)
        )
        story.record(timed_out(chunk_command(RUN_ID, before).id, retry=count))
    assert waiting(story.state) is None
    assert (story.state.chunk, decide(story.state), commands(story.state)) == (before, [], [])
    story.finish(story.last_plan).play()
    assert story.status == "stage_completed"
    assert len(story.plans) == 2


def test_loss_of_signal_is_not_failure_at_a_gate_which_waits_for_it() -> None:
    story = Story(SHORT, {("video_tokenizer", 1): Outcome(silent_monitor=True)}).play().time_passes().play()
    assert story.status == "paused"
    assert story.gates == []
    story.measure(story.last_plan).play()
    assert [(gate.decision, gate.retries_used) for gate in story.gates] == [("continue", 0)] * 2


# --- fence state by attempt -------------------------------------------------------------------------------


def timed_out(command: str, retry: int = 0) -> CommandTimedOut:
    return CommandTimedOut(run_id=RUN_ID, command=command, service="trainer", waited_sec=120, retry=retry)


def evidence_timed_out(plan: ChunkPlan) -> EvidenceTimedOut:
    return EvidenceTimedOut(
        run_id=RUN_ID, stage=plan.stage, attempt=plan.attempt, missing=["gpu_evidence"], waited_sec=60
    )


def alert(plan: ChunkPlan) -> AlertRaised:
    return AlertRaised(
        run_id=RUN_ID,
        channel="checkpoint",
        silence_sec=9,
        limit_sec=5,
        stage=plan.stage,
        attempt=plan.attempt,
    )


def killed(plan: ChunkPlan) -> LauncherKilled:
    return LauncherKilled(
        run_id=RUN_ID, pid=100 + plan.attempt, command_line="torchrun", why="stale", started_at=1.0
    )


OLD: dict[str, Callable[[ChunkPlan], Event]] = {
    "chunk_started": lambda plan: chunk_started(plan).model_copy(update={"launch": 9}),
    "chunk_done": lambda plan: chunk_done(plan, Outcome(reason="oom"), 3, {}),
    "gpu_evidence": lambda plan: gpu_evidence(plan, Outcome(device="cuda", dual_gpu_ok=False)),
    "artifact_evidence": lambda plan: artifact_evidence(plan, Outcome(loss=99.0)),
    "evidence_timed_out": evidence_timed_out,
    "alert_raised": alert,
    "launcher_killed": killed,
}
"""Events of an attempt that come when another is out."""


@pytest.mark.parametrize("name", OLD)
@pytest.mark.parametrize("attempt", [1, 9], ids=["an old one's", "one's that never was"])
@pytest.mark.parametrize("trained", [False, True], ids=["the new one trains", "the new one is at its gate"])
def test_fence_state_by_attempt(name: str, attempt: int, *, trained: bool) -> None:
    later = Outcome(silent_monitor=True) if trained else IN_WORK
    story = waits_for_evidence_twice(later)
    before = story.state
    story.record(OLD[name](story.plans[0].model_copy(update={"attempt": attempt})))
    assert story.state.chunk == before.chunk
    assert story.state.stages == before.stages
    assert decide(story.state) == []


def waits_for_evidence_twice(later: Outcome) -> Story:
    """Attempt 1 was given up without its evidence; attempt 2 is out."""
    outcomes = {("video_tokenizer", 1): Outcome(silent_monitor=True), ("video_tokenizer", 2): later}
    story = Story(SHORT, outcomes).play().time_passes().play().resume().play()
    assert [plan.attempt for plan in story.plans] == [1, 2]
    return story


def test_fence_state_by_attempt_of_gates_and_commands_too() -> None:
    story = Story(SHORT, {("video_tokenizer", 2): IN_WORK}).play()
    before = story.state
    first = story.gates[0]
    others: list[Event] = [
        first.model_copy(update={"attempt": 7, "decision": "stop", "reason": "gate_fail"}),
        timed_out(story.sent[0].id),
        timed_out(stop_command(RUN_ID, replaced(story, 1)).id),
    ]
    for event in others:
        story.record(event)
    assert (story.state.chunk, story.state.stages, story.state.ending) == (before.chunk, before.stages, None)


def replaced(story: Story, attempt: int) -> Chunk:
    chunk = story.state.chunk
    assert chunk is not None
    return replace(chunk, plan=chunk.plan.model_copy(update={"attempt": attempt}))


def test_fence_state_by_attempt_of_stages_with_the_same_number() -> None:
    story = Story(outcomes={("latent_actions", 1): IN_WORK}).play()
    before = story.state
    story.record(chunk_done(story.plans[0], Outcome(reason="oom"), 3, {}).model_copy(update={"launch": 2}))
    story.record(evidence_timed_out(story.plans[0]))
    assert (story.state.chunk, story.state.stages) == (before.chunk, before.stages)


def test_fence_state_by_inference_try_and_by_ending() -> None:
    story = Story(only("dynamics"), dead={"inference"}).play()
    before = story.state.evaluation
    assert before is not None
    test = next(command for command in commands(story.state))
    story.record(inference_done(test, {"mse": 9.0}).model_copy(update={"inference_try": 7}))  # type: ignore[arg-type]
    assert story.state.evaluation == before
    old = ReportWritten(run_id=RUN_ID, report="loop", path=None, ok=False, error="old", ordinal=9)
    ending = Story(SHORT, dead={"reporter"}).play()
    kept = ending.state.ending
    ending.record(old)
    assert ending.state.ending == kept


def test_a_heartbeat_is_no_event_of_any_attempt() -> None:
    story = Story(SHORT, {("video_tokenizer", 1): IN_WORK}).play()
    before = story.state
    story.record(Heartbeat(run_id=RUN_ID, service="trainer", pid=1, host="box", working_on=[]))  # type: ignore[arg-type]
    assert story.state == before


def test_the_new_attempts_own_events_count() -> None:
    story = waits_for_evidence_twice(IN_WORK)
    plan = story.last_plan
    story.record(chunk_done(plan, HEALTHY, plan.target_step, {plan.target_step: True}))
    story.measure(plan).play()
    assert isinstance(story.gates[1], GateDecided)
    assert story.gates[1].decision == "continue"
