"""Golden transcripts: whole runs, told line by line. They are the documentation of the state machine."""

from __future__ import annotations

from textwrap import dedent

import pytest

from services.gatekeeper.core.pipeline import decide
from shared.events import RunFinished, RunSpec, StageBlocked, StageStarted, WriteReports
from tests.unit.gatekeeper.story import UPSTREAM, Outcome, Story, chunk_done, only, run_spec

TOKENIZER = only("video_tokenizer")
DYNAMICS = only("dynamics")
RISING = Outcome(rise=0.5)
IN_WORK = Outcome(in_work=True)


def told(story: Story, expected: str) -> None:
    assert story.text == dedent(expected).strip("\n")


def tells(story: Story, expected: str) -> None:
    """The story ends like this."""
    assert story.text.endswith(dedent(expected).strip("\n")), story.text


def tokenizer(*outcomes: Outcome, spec: RunSpec = TOKENIZER) -> Story:
    return Story(spec, {("video_tokenizer", number): each for number, each in enumerate(outcomes, 1)})


def test_a_healthy_run_goes_through_three_stages_and_passes() -> None:
    story = Story().play()
    told(
        story,
        """
        operator: start_run
        video_tokenizer: begins at 0, target 20
          -> trainer: start #1 0..10
          chunk done: completed at 10
        video_tokenizer #1: continue, healthy
          -> trainer: continue #2 10..20
          chunk done: completed at 20
        video_tokenizer #2: continue, healthy
        video_tokenizer: completed at 20
        latent_actions: begins at 0, target 20
          -> trainer: start #1 0..10
          chunk done: completed at 10
        latent_actions #1: continue, healthy
          -> trainer: continue #2 10..20
          chunk done: completed at 20
        latent_actions #2: continue, healthy
        latent_actions: completed at 20
        dynamics: begins at 0, target 20
          -> trainer: start #1 0..10
          chunk done: completed at 10
        dynamics #1: continue, healthy
          -> trainer: continue #2 10..20
          chunk done: completed at 20
        dynamics #2: continue, healthy
        dynamics: completed at 20
          -> inference: test 1.0
          test done
        inference #1: continue, healthy
          -> reporter: passed #1
        finished: passed
        """,
    )
    assert story.last_plan.ends_stage
    assert set(story.last_plan.upstream) == {"video_tokenizer", "latent_actions"}


def test_one_stage_alone_ends_as_stage_completed() -> None:
    tells(
        tokenizer().play(),
        """
        video_tokenizer: completed at 20
          -> reporter: stage_completed #1
        finished: stage_completed
        """,
    )


def test_without_stages_the_given_checkpoints_are_tested_and_a_failure_is_final() -> None:
    given = {
        "checkpoints": {**UPSTREAM["checkpoints"], "dynamics": "given/dynamics_step_9"},
        "given_steps": {**UPSTREAM["given_steps"], "dynamics": 10},
    }
    story = Story(run_spec(stages=(), **given), tests=[{"mse": 0.5}]).play()
    told(
        story,
        """
        operator: start_run
          -> inference: test 1.0
          test done
        inference #1: stop, inference_metric
        inference: blocked
          -> reporter: failed #1
        finished: failed
        """,
    )
    kinds = ["git", "wandb", "retrospective", "inference"]
    assert story.state.report_kinds == kinds  # no stage was trained: no loop report
    assert factors(story)[0] == "inference_metric: this run trains no dynamics, so nothing is trained again"
    tells(
        story.resume().play(),
        """
        resumed by operator
          -> inference: test 2.0
          test done
        inference #2: continue, healthy
          -> reporter: passed #2
        finished: passed
        """,
    )


def test_a_given_checkpoint_counts_as_an_accepted_gate() -> None:
    spec = only(
        "video_tokenizer", checkpoints={"video_tokenizer": "given/vt"}, given_steps={"video_tokenizer": 5}
    )
    story = tokenizer(Outcome(loss=1.0), spec=spec).play()
    tells(
        story,
        """
        video_tokenizer: begins at 5, target 20 from given/vt
          -> trainer: start #1 5..15
          chunk done: completed at 15
        video_tokenizer #1: retune, gate_fail (1/5) [learning_rate=0.0005, gradient_accumulation_steps=3]
          -> trainer: retune #2 5..15
          chunk done: completed at 15
        video_tokenizer #2: continue, healthy
          -> trainer: continue #3 15..20
          chunk done: completed at 20
        video_tokenizer #3: continue, healthy
        video_tokenizer: completed at 20
          -> reporter: stage_completed #1
        finished: stage_completed
        """,
    )
    first, second, _ = story.gates
    assert story.plans[1].resume_from == "given/vt"
    assert first.best_checkpoint == "given/vt"
    assert second.best_checkpoint == second.accepted_checkpoint  # given is best only when there is no other


def test_a_target_already_passed_leaves_nothing_to_train() -> None:
    spec = only(
        "video_tokenizer", checkpoints={"video_tokenizer": "given/vt"}, given_steps={"video_tokenizer": 30}
    )
    story = tokenizer(spec=spec).play()
    told(
        story,
        """
        operator: start_run
        video_tokenizer: begins at 30, target 20 from given/vt
        video_tokenizer: completed at 30
          -> reporter: stage_completed #1
        finished: stage_completed
        """,
    )


def test_a_pause_takes_effect_at_the_gate_and_a_retune_meanwhile_patches_the_next_plan() -> None:
    story = tokenizer(IN_WORK).play().pause().play()
    assert story.status == "running"
    story.finish(story.last_plan).play()
    assert story.status == "paused"
    story.retune(learning_rate=5e-4).resume().play()
    tells(
        story,
        """
        operator: pause_run
          chunk done: completed at 10
        video_tokenizer #1: continue, healthy
        paused by operator: the operator asked
        operator: retune_run {'stage': 'video_tokenizer', 'changes': {'learning_rate': 0.0005}}
        operator: resume_run
        resumed by operator
          -> trainer: continue #2 10..20
          chunk done: completed at 20
        video_tokenizer #2: continue, healthy
        video_tokenizer: completed at 20
          -> reporter: stage_completed #1
        finished: stage_completed
        """,
    )
    assert story.last_plan.schedule.peak == 5e-4
    assert story.last_plan.parameters["learning_rate"] == 5e-4
    assert story.last_plan.schedule.end_step == 20  # only the peak changes


def test_a_pause_that_is_taken_back_before_the_gate_is_none() -> None:
    story = tokenizer(IN_WORK).play().pause().resume()
    story.finish(story.last_plan).play()
    assert story.status == "stage_completed"
    assert "paused" not in story.text


def test_a_pause_in_the_last_stage_of_all_does_not_hold_the_reports_up() -> None:
    story = Story(DYNAMICS, dead={"inference"}).play().pause()
    test = story.sent[-1]
    story.dead = set()
    story._answer(test)
    assert story.play().status == "passed"


def test_a_retune_while_a_chunk_runs_patches_the_plan_after_it_and_reruns_nothing() -> None:
    story = tokenizer(IN_WORK).play().retune(batch_size_per_gpu=4)
    story.finish(story.last_plan).play()
    assert [plan.parameters["batch_size_per_gpu"] for plan in story.plans] == [8, 4]
    assert story.gates[0].config_patch_applied == {"batch_size_per_gpu": 4}
    assert story.gates[0].decision == "continue"
    assert story.gates[0].retries_used == 0
    assert story.gates[0].effective_batch == 8 * 2 * 2  # of the chunk that was judged


def test_a_retune_to_batch_1_makes_the_run_degraded() -> None:
    story = tokenizer(IN_WORK).play().retune(batch_size_per_gpu=1)
    story.finish(story.last_plan).play()
    tells(story, "finished: stage_completed, degraded")


def test_a_retune_in_a_stages_last_chunk_is_no_patch_of_its_gate() -> None:
    story = Story(TOKENIZER, {("video_tokenizer", 2): IN_WORK}).play().retune(learning_rate=1e-4)
    story.finish(story.last_plan).play()
    assert story.gates[-1].config_patch_applied == {}
    assert story.status == "stage_completed"


def test_a_retune_in_the_last_chunk_of_dynamics_patches_its_next_segment() -> None:
    story = (
        Story(DYNAMICS, {("dynamics", 2): IN_WORK}, tests=[{"mse": 0.5}]).play().retune(learning_rate=1e-5)
    )
    story.finish(story.last_plan).play()
    gates = [gate for gate in story.gates if gate.decision == "retune"]
    assert [gate.config_patch_applied for gate in gates] == [{"learning_rate": 1e-5}]
    assert story.last_plan.schedule.peak == 1e-5
    assert story.state.stages["dynamics"].wish == {}


def test_a_stop_applies_no_patch_and_a_resume_does() -> None:
    story = tokenizer(IN_WORK).play().retune(learning_rate=1e-4).stop().play()
    (gate,) = story.gates
    assert gate.config_patch_applied == {}
    assert gate.config_patch_on_resume == {"learning_rate": 1e-4}
    assert story.resume().play().last_plan.schedule.peak == 1e-4


def test_a_paused_run_that_is_stopped_does_not_wait_for_ever_for_its_reports() -> None:
    story = Story(TOKENIZER, {("video_tokenizer", 1): IN_WORK}, dead={"reporter"}).play().pause()
    story.finish(story.last_plan).play().stop().play()
    for _ in range(4):
        story.time_passes().play()
    assert story.status == "stopped"


def test_a_chunk_that_found_no_files_fails_the_run_and_loses_no_step() -> None:
    story = tokenizer(IN_WORK, IN_WORK, IN_WORK).play()
    story.stop().play().resume().play()
    plan = story.last_plan
    assert (plan.attempt, plan.start_step) == (2, 5)
    done = chunk_done(plan, Outcome(reason="stopped"), plan.start_step, {})
    story.record(done.model_copy(update={"stderr_tail": "the run's bundle is not at /runs/x"})).play()
    assert story.state.finished is not None
    assert (story.status, story.state.finished.reason) == ("failed", "the run's bundle is not at /runs/x")
    again = story.resume().play().last_plan
    assert (again.start_step, again.resume_from) == (5, plan.resume_from)


def test_a_stop_ends_the_chunk_and_a_resume_goes_on_to_the_same_target() -> None:
    story = tokenizer(IN_WORK).play().stop().play()
    told(
        story,
        """
        operator: start_run
        video_tokenizer: begins at 0, target 20
          -> trainer: start #1 0..10
        operator: stop_run {'reason': 'the operator asked'}
          -> trainer: stop #1
          chunk done: stopped at 5
        video_tokenizer #1: stop, stopped
          -> reporter: stopped #1
        finished: stopped
        """,
    )
    assert story.gates[0].retries_used == 0
    tells(
        story.resume().play(),
        """
        resumed by operator
          -> trainer: continue #2 5..10
          chunk done: completed at 10
        video_tokenizer #2: continue, healthy
          -> trainer: continue #3 10..20
          chunk done: completed at 20
        video_tokenizer #3: continue, healthy
        video_tokenizer: completed at 20
          -> reporter: stage_completed #2
        finished: stage_completed
        """,
    )


def test_a_stop_takes_effect_at_once_when_no_chunk_runs() -> None:
    story = tokenizer(Outcome(silent_monitor=True)).play().stop().play()
    tells(
        story,
        "operator: stop_run {'reason': 'the operator asked'}\n  -> reporter: stopped #1\nfinished: stopped",
    )
    story.measure(
        story.last_plan
    ).resume().play()  # the gate is decided with the evidence that came meanwhile
    assert [gate.reason for gate in story.gates] == ["healthy", "healthy"]


def test_a_stop_ends_a_run_whose_trainer_is_silent() -> None:
    story = tokenizer(IN_WORK).play()
    story.dead = {"trainer"}
    story.stop().play().time_passes().play()
    tells(
        story,
        """
        operator: stop_run {'reason': 'the operator asked'}
          -> trainer: stop #1
          no answer from trainer (sending 0)
          -> reporter: stopped #1
        finished: stopped
        """,
    )
    story.dead, story.outcomes = set(), {}
    story.resume().play()
    assert story.plans[1].attempt == 2  # the silent trainer's attempt is fenced off
    assert story.status == "stage_completed"


def test_evidence_that_does_not_come_pauses_the_run_until_it_does() -> None:
    story = tokenizer(Outcome(silent_monitor=True)).play().time_passes().play()
    assert story.status == "paused"
    story.measure(story.last_plan).play()
    tells(
        story,
        """
          chunk done: completed at 10
          no gpu_evidence, artifact_evidence in time
        paused by evidence: waiting for gpu_evidence, artifact_evidence
        resumed by evidence
        video_tokenizer #1: continue, healthy
          -> trainer: continue #2 10..20
          chunk done: completed at 20
        video_tokenizer #2: continue, healthy
        video_tokenizer: completed at 20
          -> reporter: stage_completed #1
        finished: stage_completed
        """,
    )


def test_evidence_does_not_resume_a_run_that_the_operator_paused() -> None:
    story = tokenizer(Outcome(silent_monitor=True)).play().time_passes().play().pause().play()
    story.measure(story.last_plan).play()
    assert story.status == "paused"
    story.resume().play()
    assert story.status == "stage_completed"


def test_an_operator_may_go_on_without_evidence_and_the_chunk_is_trained_again_for_free() -> None:
    story = tokenizer(Outcome(silent_monitor=True)).play().time_passes().play().resume().play()
    assert story.gates[0].reason == "no_evidence"
    assert story.gates[0].retries_used == 0
    assert (story.plans[1].start_step, story.plans[1].target_step) == (0, 10)
    assert story.status == "stage_completed"


def test_gpus_that_nobody_watched_are_tried_once_more_for_free_then_the_operator_is_needed() -> None:
    blind = Outcome(device="cuda", observed=False)
    story = tokenizer(blind, blind).play()
    tells(
        story,
        """
          -> trainer: start #1 0..10
          chunk done: completed at 10
        video_tokenizer #1: retune, gpu_unobserved
          -> trainer: retune #2 0..10
          chunk done: completed at 10
        paused by evidence: nobody watched the GPUs, twice at this gate: see to the monitor, then resume
        """,
    )
    story.resume().play()
    assert story.status == "stage_completed"
    assert [gate.retries_used for gate in story.gates] == [0, 0, 0, 0]


def test_gpus_that_nobody_watched_are_flagged_where_nothing_asks_for_two() -> None:
    story = tokenizer(Outcome(observed=False)).play()
    assert story.gates[0].verdict == "watch"
    assert story.gates[0].decision == "continue"


def test_a_trainer_that_never_takes_a_command_ends_the_run_with_reports_and_a_resume_asks_again() -> None:
    story = tokenizer(Outcome(dead_trainer=True)).play()
    for _ in range(4):
        story.time_passes().play()
    tells(
        story,
        """
          -> trainer: start #1 0..10
          no answer from trainer (sending 0)
          -> trainer: start #1 0..10
          no answer from trainer (sending 1)
          -> trainer: start #1 0..10
          no answer from trainer (sending 2)
          -> trainer: start #1 0..10
          no answer from trainer (sending 3)
          -> trainer: stop #1
          chunk done: stopped at 5
          -> reporter: failed #1
        finished: failed
        """,
    )
    story.outcomes = {}
    tells(
        story.resume().play(),
        """
        finished: stage_completed
        """,
    )


def test_a_reporter_that_never_answers_makes_a_passed_run_a_failed_one() -> None:
    story = Story(TOKENIZER, dead={"reporter"}).play()
    for _ in range(4):
        story.time_passes().play()
    last = story.events[-1]
    assert isinstance(last, RunFinished)
    assert last.status == "failed"
    assert "loop, git, wandb, retrospective, inference" in last.reason


def test_a_required_report_that_fails_is_written_again_as_failed() -> None:
    story = Story(TOKENIZER, failing_reports={"loop": 1}).play()
    tells(
        story,
        """
          -> reporter: stage_completed #1
          report loop failed
          -> reporter: failed #2
        finished: failed
        """,
    )
    tells(
        story.resume().play(),
        """
        resumed by operator
          -> reporter: stage_completed #3
        finished: stage_completed
        """,
    )


def test_a_spent_budget_blocks_the_stage_and_still_reports() -> None:
    spec = only("dynamics", policy={"max_retries": 2})
    story = Story(spec, {("dynamics", number): RISING for number in range(2, 5)}).play()
    tells(
        story,
        """
        dynamics #1: continue, healthy
          -> trainer: continue #2 10..20
          chunk done: completed at 20
        dynamics #2: retune, gate_fail (1/2) [learning_rate=0.0002, gradient_accumulation_steps=1]
          -> trainer: retune #3 10..15
          chunk done: completed at 15
        dynamics #3: retune, gate_fail (2/2) [learning_rate=4e-05]
          -> trainer: retune #4 10..15
          chunk done: completed at 15
        dynamics #4: stop, gate_fail (2/2)
        dynamics: blocked
          -> reporter: failed #1
        finished: failed
        """,
    )
    assert factors(story)[0] == "gate_fail: budget spent (2 of 2 retries, 0 restarts)"
    blocked = next(event for event in story.events if isinstance(event, StageBlocked))
    assert blocked.best_checkpoint == story.gates[0].accepted_checkpoint
    late, delta = factors(story)[1:]  # of two limits that a number broke the wider one alone
    assert "is above 1.08 times the mid mean" in late
    assert delta.endswith("is above 0.5")
    story.outcomes["dynamics", 5] = RISING
    story.resume().play()  # where the last failed gate would have led, with the budget anew
    assert (story.gates[4].decision, story.gates[4].retries_used) == ("retune", 1)
    assert (story.plans[4].start_step, story.plans[4].target_step) == (10, 15)
    assert story.plans[4].schedule.peak == pytest.approx(8e-6)
    assert story.status == "passed"


def test_only_progress_resets_the_retries() -> None:
    outcomes = {("dynamics", 1): RISING, ("dynamics", 3): RISING}
    story = Story(DYNAMICS, outcomes).play()
    assert [gate.retries_used for gate in story.gates[:4]] == [1, 0, 1, 0]
    spec = only("dynamics", policy={"retry_budget": "total"})
    story = Story(spec, outcomes).play()
    assert [gate.retries_used for gate in story.gates[:4]] == [1, 1, 2, 2]


def test_a_failed_inference_gate_goes_back_to_dynamics_with_a_new_segment() -> None:
    story = Story(DYNAMICS, tests=[{"mse": 0.5}, {"mse": 0.4}, {"mse": 0.3}]).play()
    tells(
        story,
        """
        dynamics: completed at 20
          -> inference: test 1.0
          test done
        inference #1: retune, inference_metric (1/2) [learning_rate=0.00035]
        dynamics: begins at 20, target 30 from results/run/dynamics/checkpoints/dynamics_step_19
          -> trainer: start #3 20..30
          chunk done: completed at 30
        dynamics #3: continue, healthy
        dynamics: completed at 30
          -> inference: test 2.0
          test done
        inference #2: retune, inference_metric (2/2) [learning_rate=0.000245]
        dynamics: begins at 30, target 40 from results/run/dynamics/checkpoints/dynamics_step_29
          -> trainer: start #4 30..40
          chunk done: completed at 40
        dynamics #4: continue, healthy
        dynamics: completed at 40
          -> inference: test 3.0
          test done
        inference #3: stop, inference_metric (2/2)
        inference: blocked
          -> reporter: failed #1
        finished: failed
        """,
    )
    segment = story.plans[2].schedule
    assert (segment.start_step, segment.end_step, segment.peak) == (20, 30, 0.00035)
    assert story.resume().play().status == "passed"  # goes on with training, not with the same test
    begun = [event.ordinal for event in story.events if isinstance(event, StageStarted)]
    assert begun == [1, 2, 3, 4]


def test_an_inference_test_that_crashed_or_left_no_picture_is_run_again_not_retrained() -> None:
    story = Story(DYNAMICS, tests=[{"ok": False, "problem": "out of disk"}, {"picture": None}]).play()
    tells(
        story,
        """
        dynamics: completed at 20
          -> inference: test 1.0
          test failed: out of disk
          -> inference: test 1.1
          test done
          -> inference: test 1.2
          test done
        inference #1: continue, healthy
          -> reporter: passed #1
        finished: passed
        """,
    )


def test_an_inference_test_that_only_crashes_fails_the_run() -> None:
    story = Story(DYNAMICS, tests=[{"ok": False, "problem": "out of disk"}] * 4).play()
    tells(
        story,
        """
          -> inference: test 1.3
          test failed: out of disk
        inference #1: stop, inference_crash
        inference: blocked
          -> reporter: failed #1
        finished: failed
        """,
    )
    assert factors(story)[0] == "inference_crash: the test failed 4 times, and training cannot help it"
    assert story.resume().play().status == "passed"


def factors(story: Story) -> list[str]:
    return next(event for event in story.events if isinstance(event, StageBlocked)).blocking_factors


def test_a_queued_run_has_no_command_out() -> None:
    story = tokenizer()
    story.ahead = ["20261121_110000"]
    told(story.play(), "operator: start_run\nqueued behind 20261121_110000")
    assert story.status == "queued"
    story.ahead = []
    assert story.play().status == "stage_completed"


def test_a_queued_run_that_is_stopped_ends_at_once() -> None:
    story = tokenizer()
    story.ahead = ["20261121_110000"]
    tells(story.play().stop().play(), "  -> reporter: stopped #1\nfinished: stopped")
    assert story.plans == []


def test_a_resumed_run_waits_for_those_before_it() -> None:
    story = tokenizer(IN_WORK).play().stop().play()
    story.ahead = ["20261121_130000"]
    story.outcomes = {}
    story.resume().play()
    assert story.status == "queued"
    assert decide(story.state, story.ahead) == []
    story.ahead = []
    assert story.play().status == "stage_completed"


def test_the_reports_command_carries_the_outcome() -> None:
    story = tokenizer().play()
    command = next(command for command in story.sent if isinstance(command, WriteReports))
    assert (command.outcome, command.kinds, command.degraded) == (
        "stage_completed",
        ["loop", "git", "wandb", "retrospective", "inference"],
        False,
    )
