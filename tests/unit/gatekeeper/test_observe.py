"""A run that is only observed: what is decided is recorded and not done."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.gatekeeper.story import Outcome, Story, only
from tests.unit.gatekeeper.test_pipeline import tokenizer, told


def test_observing_records_what_would_be_decided_and_goes_on_regardless() -> None:
    spec = only("video_tokenizer", observe=True)
    story = tokenizer(Outcome(loss=1.0), Outcome(reason="oom"), spec=spec).play()
    told(
        story,
        """
        operator: start_run
        video_tokenizer: begins at 0, target 20
          -> trainer: start #1 0..10
          chunk done: completed at 10
        video_tokenizer #1: continue, gate_fail
          -> trainer: continue #2 10..20
          chunk done: oom at 15
        video_tokenizer #2: retune, oom (1/5)
          -> trainer: retune #3 15..20
          chunk done: completed at 20
        video_tokenizer #3: continue, healthy
        video_tokenizer: completed at 20
          -> reporter: stage_completed #1
        finished: stage_completed
        """,
    )
    assert {plan.parameters["batch_size_per_gpu"] for plan in story.plans} == {8}
    withheld = [gate.observed for gate in story.gates]
    assert withheld[0] is not None
    assert (withheld[0].decision, withheld[0].next_target_step) == ("retune", 10)
    assert withheld[0].config_patch["learning_rate"] == 5e-4
    assert withheld[1] is not None
    assert withheld[1].config_patch == {"batch_size_per_gpu": 4}
    assert withheld[2] is None


def test_observing_a_chunk_that_never_ends_well_stops_when_the_budget_is_spent() -> None:
    spec = only("video_tokenizer", observe=True, policy={"max_retries": 1})
    story = tokenizer(*[Outcome(reason="oom")] * 3, spec=spec).play()
    assert [(gate.decision, gate.retries_used) for gate in story.gates] == [("retune", 1), ("stop", 1)]
    assert story.gates[-1].config_patch_on_resume == {}
    assert story.status == "failed"
    story.outcomes = {}
    assert story.resume().play().status == "stage_completed"
    assert {plan.parameters["batch_size_per_gpu"] for plan in story.plans} == {8}


def test_observing_without_any_valid_checkpoint_begins_the_stage_again_unchanged() -> None:
    spec = only("video_tokenizer", observe=True)
    story = tokenizer(Outcome(), Outcome(checkpoint="all invalid"), spec=spec).play()
    lost = story.gates[1]
    assert (lost.decision, lost.resume_from, lost.config_patch_applied) == ("restart_stage", None, {})
    assert (lost.retries_used, lost.restarts_used) == (1, 1)
    assert story.status == "stage_completed"


def test_observing_training_again_from_the_accepted_gate_is_no_restart() -> None:
    spec = only("video_tokenizer", observe=True)
    story = tokenizer(Outcome(), Outcome(reason="oom", end_step=10), spec=spec).play()
    gate = story.gates[1]
    assert (gate.decision, gate.resume_step, gate.retries_used, gate.restarts_used) == ("retune", 10, 1, 0)


def test_observing_going_back_spends_the_budget_of_restarts() -> None:
    """Chunks end at 10, 20, and, begun afresh, 20 and 30."""
    longer = {"video_tokenizer": {"n_updates": 30}}
    spec = only("video_tokenizer", observe=True, policy={"max_restarts": 1}, config=longer)
    lost = Outcome(checkpoint="all invalid")
    story = tokenizer(Outcome(), lost, Outcome(), lost, spec=spec).play()
    assert [gate.decision for gate in story.gates] == ["continue", "restart_stage", "continue", "stop"]
    assert story.status == "failed"


def test_observing_a_chunk_nobody_watched_that_left_no_checkpoint_waits_for_the_operator() -> None:
    unseen = Outcome(device="cuda", observed=False, checkpoint="invalid")
    spec = only("video_tokenizer", observe=True)
    story = tokenizer(*[unseen] * 3, spec=spec).play()
    assert [(gate.decision, gate.reason) for gate in story.gates] == [("retune", "gpu_unobserved")]
    assert story.status == "paused"
    story = tokenizer(unseen, replace(unseen, checkpoint="valid"), spec=spec).play()
    assert [gate.decision for gate in story.gates] == ["retune", "continue", "continue"]
    assert story.status == "stage_completed"


def test_observing_goes_on_without_evidence_once_the_operator_says_so_and_only_from_a_valid_checkpoint() -> (
    None
):
    spec = only("video_tokenizer", observe=True)
    for checkpoint, decision in (("valid", "continue"), ("invalid", "retune")):
        story = tokenizer(Outcome(silent_monitor=True, checkpoint=checkpoint), spec=spec).play()
        story.time_passes().play().resume().play()
        assert (story.gates[0].reason, story.gates[0].decision) == ("no_evidence", decision)
        assert story.status == "stage_completed"


def test_observing_a_failed_inference_gate_trains_nothing_again_and_has_not_passed() -> None:
    story = Story(only("dynamics", observe=True), tests=[{"mse": 0.5}]).play()
    gate = story.gates[-1]
    assert gate.stage == "inference"
    assert (gate.decision, gate.next_target_step, gate.retries_used) == ("stop", None, 0)
    assert gate.observed is not None
    assert (gate.observed.decision, gate.observed.next_target_step) == ("retune", 30)
    assert story.status == "failed"
    assert [plan.stage for plan in story.plans] == ["dynamics"] * 2
    assert story.resume().play().status == "passed"  # tested again
