"""The fold: what is seen twice, too late or in another order changes nothing; a crash loses nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import permutations

import pytest

from services.gatekeeper.core.fold import fold
from services.gatekeeper.core.pipeline import commands, decide
from services.gatekeeper.core.state import RunState, Seen
from shared.bus.protocol import Recorded
from shared.events import AlertRaised, ChunkDone, ChunkStarted, Event, GateDecided, Heartbeat
from tests.unit.gatekeeper.story import (
    HEALTHY,
    RUN_ID,
    Outcome,
    Story,
    artifact_evidence,
    checkpoint,
    chunk_done,
    chunk_started,
    gpu_evidence,
    only,
)

SHORT = only("video_tokenizer")
SMALL = {"batch_size_per_gpu": 2}
IN_WORK = Outcome(in_work=True)


def at(sequence: int, event: Event) -> Recorded:
    return Recorded(sequence, datetime.now(UTC), "test", event)


def test_a_gatekeeper_that_knows_only_the_log_publishes_the_same_commands_after_every_event() -> None:
    story = Story(only("dynamics"), {("dynamics", 1): Outcome(reason="oom")}, tests=[{"mse": 0.5}]).play()
    state, live = RunState(RUN_ID), []
    for recorded in story.log:
        state = fold(state, recorded)
        if not decide(state):
            live.append((recorded.sequence, [command.id for command in commands(state)]))
    sent = {command.id for command in story.sent}
    assert sent == {command for _, ids in live for command in ids}
    for sequence, ids in live:
        fresh = RunState(RUN_ID)
        for recorded in story.log[:sequence]:
            fresh = fold(fresh, recorded)
        assert [command.id for command in commands(fresh)] == ids


def test_every_event_twice_tells_the_same_story() -> None:
    story = Story(outcomes={("dynamics", 2): Outcome(rise=0.5)}).play()
    state = RunState(RUN_ID)
    for recorded in story.log:
        state = fold(fold(state, recorded), recorded)
    for recorded in story.log:
        assert fold(state, recorded) is state
    assert state == story.state


@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_the_four_events_of_a_chunk_may_come_in_any_order(order: tuple[int, ...]) -> None:
    story = Story(SHORT, {("video_tokenizer", 1): Outcome(dead_trainer=True)}).play()
    plan = story.last_plan
    events: list[Event] = [
        chunk_started(plan),
        chunk_done(plan, HEALTHY, 10, {10: True}),
        gpu_evidence(plan),
        artifact_evidence(plan),
    ]
    for place in order:
        assert not [event for event in decide(story.state) if isinstance(event, GateDecided)] or place == 0
        story.record(events[place])
    story.settle()
    assert [gate.decision for gate in story.gates] == ["continue"]


def test_evidence_of_an_earlier_attempt_is_fenced_off() -> None:
    silent, in_work = Outcome(silent_monitor=True), Outcome(in_work=True)
    story = Story(SHORT, {("video_tokenizer", 1): silent, ("video_tokenizer", 2): in_work}).play()
    story.time_passes().play().resume().play()  # the chunk is trained again without its evidence
    before = story.state
    story.measure(story.plans[0])
    assert story.state.chunk == before.chunk
    assert story.state.stages == before.stages


def test_a_chunk_that_has_started_is_not_asked_for_again() -> None:
    story = Story(SHORT, {("video_tokenizer", 1): Outcome(in_work=True)}).play()
    assert commands(story.refolded()) == []


def test_a_relaunch_of_the_same_attempt_changes_no_plan() -> None:
    story = Story(SHORT, {("video_tokenizer", 1): Outcome(in_work=True)}).play()
    plan = story.last_plan
    story.record(chunk_started(plan).model_copy(update={"launch": 2, "launcher_pid": 999}))
    story.finish(plan).play()
    assert story.status == "stage_completed"
    assert [plan.attempt for plan in story.plans] == [1, 2]


def test_a_second_end_of_a_chunk_is_ignored() -> None:
    story = Story(SHORT, {("video_tokenizer", 1): Outcome(silent_monitor=True)}).play()
    chunk = story.state.chunk
    assert chunk is not None
    again = chunk_done(chunk.plan, Outcome(reason="oom"), 3, {})
    story.record(again)
    assert story.state.chunk is not None
    assert story.state.chunk.done is not None
    assert story.state.chunk.done.reason == "completed"


def test_events_that_decide_nothing_only_move_the_sequence() -> None:
    story = Story(SHORT).play()
    alert = AlertRaised(run_id=RUN_ID, channel="gpu", silence_sec=9, limit_sec=5)
    after = fold(story.state, at(999, alert))
    assert after == story.state.past(999)


def test_events_of_other_runs_and_other_kinds_are_none_of_its_business() -> None:
    story = Story(SHORT).play()
    other = chunk_started(story.plans[0], run_id="20261121_130000")
    beat = Heartbeat(run_id=RUN_ID, service="trainer", pid=1, host="box", working_on=[])
    assert fold(story.state, at(999, other)) is story.state
    assert fold(story.state, Recorded(0, datetime.now(UTC), "test", beat)) is story.state


def test_events_before_the_start_of_a_run_are_kept_in_mind_and_nothing_more() -> None:
    plan = Story(SHORT).play().plans[0]
    state = fold(RunState(RUN_ID), at(1, chunk_started(plan)))
    assert (state.spec, state.sequence, decide(state), commands(state)) == (None, 1, [], [])


def test_recorded_decisions_are_authoritative() -> None:
    story = Story(SHORT, {("video_tokenizer", 1): Outcome(in_work=True)}).play()
    plan = story.last_plan
    story.record(chunk_done(plan, HEALTHY, 10, {10: True}))
    judged = Story(SHORT).play().gates[0]
    another = judged.model_copy(
        update={
            "decision": "retune",
            "reason": "gate_fail",
            "accepted_checkpoint": None,
            "resume_from": None,
            "resume_step": 0,
            "next_target_step": 7,
            "config_patch_applied": {"learning_rate": 1e-5},
            "retries_used": 3,
        }
    )
    story.record(another)
    chunk = story.state.chunk
    assert chunk is not None
    assert (chunk.plan.attempt, chunk.plan.start_step, chunk.plan.target_step) == (2, 0, 7)
    assert chunk.plan.schedule.peak == 1e-5
    assert story.state.stages["video_tokenizer"].retries == 3


def test_what_lies_beyond_a_restart_is_superseded() -> None:
    collapsed = Outcome(unique_actions=1, action_entropy=0.0)
    outcomes = {2: collapsed, 3: collapsed, 4: Outcome(loss=1.0)}
    story = Story(only("latent_actions"), {("latent_actions", n): how for n, how in outcomes.items()}).play()
    assert [plan.resume_from for plan in story.plans[2:5]] == [checkpoint("latent_actions", 10), None, None]
    assert story.gates[3].reason == "gate_fail"  # and goes on fresh: the gate accepted before is no more
    assert story.gates[3].best_checkpoint is None


def test_a_restart_that_the_budget_forbade_is_remembered_when_the_operator_resumes() -> None:
    collapsed = Outcome(unique_actions=1, action_entropy=0.0)
    spec = only("latent_actions", policy={"max_restarts": 0})
    story = Story(spec, {("latent_actions", number): collapsed for number in (2, 3)}).play()
    assert (story.gates[1].decision, story.gates[1].decision_on_resume) == ("stop", "restart_stage")
    story.resume().play()
    assert story.plans[2].resume_from == checkpoint("latent_actions", 10)
    assert [command.name for command in story.sent if command.service == "trainer"][2] == "restart"
    assert story.gates[2].resume_from is None  # restarted from there before


def test_a_newest_checkpoint_that_turns_out_invalid_is_none() -> None:
    story = Story(SHORT, {("video_tokenizer", 2): Outcome(in_work=True)}).play()
    plan = story.last_plan
    assert story.state.stages["video_tokenizer"].newest == (checkpoint("video_tokenizer", 10), 10)
    story.record(chunk_done(plan, Outcome(reason="oom"), 12, {10: False}))
    assert story.state.stages["video_tokenizer"].newest is None


def test_a_given_checkpoint_stays_the_newest_though_the_trainer_does_not_list_it() -> None:
    given = {"checkpoints": {"video_tokenizer": "given/vt"}, "given_steps": {"video_tokenizer": 5}}
    story = Story(only("video_tokenizer", **given), {("video_tokenizer", 1): Outcome(in_work=True)}).play()
    story.record(chunk_done(story.last_plan, Outcome(reason="oom"), 7, {6: False}))
    assert story.state.stages["video_tokenizer"].newest == ("given/vt", 5)


def test_what_lies_beyond_a_new_plan_is_not_the_newest_any_more() -> None:
    story = Story(SHORT, {("video_tokenizer", 2): Outcome(loss=1.0), ("video_tokenizer", 3): IN_WORK}).play()
    assert story.last_plan.start_step == 10
    assert story.state.stages["video_tokenizer"].newest == (checkpoint("video_tokenizer", 10), 10)


def test_a_restart_from_before_a_segment_of_the_schedule_begins_one_of_its_own() -> None:
    lost = Outcome(checkpoint="all invalid")
    story = Story(only("dynamics"), {("dynamics", 3): lost}, tests=[{"mse": 0.5}]).play()
    before, after = story.plans[2], story.plans[3]
    assert (before.schedule.start_step, before.start_step) == (20, 20)
    assert (after.resume_from, after.start_step, after.schedule.start_step) == (None, 0, 0)


def test_what_a_stop_left_undone_counts_when_it_is_done() -> None:
    spec = only("video_tokenizer", policy={"max_retries": 0}, config={"video_tokenizer": SMALL})
    story = Story(spec, {("video_tokenizer", 1): Outcome(reason="oom", end_step=0)}).play()
    (gate,) = story.gates
    assert (gate.decision, gate.config_patch_on_resume) == ("stop", {"batch_size_per_gpu": 1})
    assert not gate.degraded
    story.resume().play()
    assert story.state.degraded
    assert story.last_plan.parameters["batch_size_per_gpu"] == 1


def test_the_log_alone_gives_the_live_state() -> None:
    story = Story(outcomes={("dynamics", 1): Outcome(reason="oom")}, tests=[{"mse": 0.5}]).play()
    assert story.refolded() == story.state
    assert isinstance(story.events[4], ChunkStarted | ChunkDone)


def test_sets_of_ids_share_what_they_have_in_common() -> None:
    one = Seen().add("a")
    two, other = one.add("b"), one.add("c")
    assert "b" in two
    assert "b" not in one
    assert "b" not in other
    assert "c" in other
    assert "c" not in two
    assert (len(one), len(two), two == Seen().add("b").add("a")) == (1, 2, True)


def test_a_gate_leaves_one_id_behind_whatever_came_before_it() -> None:
    story = Story(only("video_tokenizer", config={"video_tokenizer": {"n_updates": 200}})).start().settle()
    before = len(story.state.seen)
    gates = 0
    while story.state.chunk is not None:
        story.finish(story.state.chunk.plan).settle()
        gates += 1
    assert gates == 20
    assert len(story.state.seen) - before <= gates + 1  # and the stage's end
