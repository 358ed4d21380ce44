"""Each row of the table of gate checks: what fails, what is decided, where it goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.gatekeeper.core.verdicts import binds
from shared.events import ChunkPlan, GateDecided, RunSpec
from tests.unit.gatekeeper.story import (
    COLLAPSED,
    Outcome,
    Story,
    artifact_evidence,
    checkpoint,
    gpu_evidence,
    only,
    run_spec,
)

ON_GPUS = Outcome(device="cuda", dual_gpu_ok=True)
FADED = Outcome(good_picture=False)
HOT = Outcome(loss=7.0, rise=0.5)
"""Dynamics: at or above 6, and rising."""


def second_gate(
    outcome: Outcome, spec: RunSpec | None = None, *others: Outcome
) -> tuple[GateDecided, ChunkPlan]:
    """The gate of the second chunk, and the plan that followed it."""
    spec = spec or only("video_tokenizer")
    stage = spec.stages[0]
    outcomes: dict[tuple[str, int], Outcome] = {
        (stage, number): each for number, each in enumerate((outcome, *others), 2)
    }
    story = Story(spec, outcomes).play()
    return story.gates[1], story.plans[2]


def failed(gate: GateDecided) -> list[int]:
    return sorted({reason.check for reason in gate.reasons if not reason.ok})


# --- 1: how the chunk ended -------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["oom", "runtime_error"])
def test_1_running_out_of_memory_halves_the_batch_and_goes_on_from_the_newest_valid_checkpoint(
    reason: Any,
) -> None:
    gate, plan = second_gate(Outcome(reason=reason))
    assert (gate.decision, gate.reason, failed(gate)[0]) == ("retune", reason, 1)
    assert gate.config_patch_applied == {"batch_size_per_gpu": 4}
    assert (plan.resume_from, plan.start_step, plan.target_step) == (
        checkpoint("video_tokenizer", 15),
        15,
        20,
    )
    assert not gate.degraded


def test_1_the_batch_is_halved_down_to_the_floor_then_comes_the_ladder_and_the_run_is_degraded() -> None:
    spec = only("video_tokenizer", policy={"min_batch_size": {"video_tokenizer": 3}})
    oom = Outcome(reason="oom", end_step=10)
    story = Story(spec, {("video_tokenizer", number): oom for number in (2, 3, 4)}).play()
    patches = [gate.config_patch_applied for gate in story.gates[1:4]]
    assert patches[0] == {"batch_size_per_gpu": 4}
    assert patches[1] == {"batch_size_per_gpu": 3}
    assert patches[2] == {"learning_rate": 5e-4, "gradient_accumulation_steps": 3}
    assert [gate.degraded for gate in story.gates[1:4]] == [False, False, True]
    assert story.state.degraded


def test_1_retuned_down_to_batch_1_is_degraded_and_starting_there_is_not() -> None:
    oom = Outcome(reason="oom", end_step=10)
    small = only("video_tokenizer", config={"video_tokenizer": {"batch_size_per_gpu": 2}})
    assert Story(small, {("video_tokenizer", 2): oom}).play().state.degraded
    smallest = only("video_tokenizer", config={"video_tokenizer": {"batch_size_per_gpu": 1}})
    assert not Story(smallest).play().state.degraded


def test_1_a_loss_that_is_not_finite_climbs_the_ladder_from_the_accepted_gate() -> None:
    gate, plan = second_gate(Outcome(reason="non_finite"))
    assert (gate.decision, gate.reason) == ("retune", "non_finite")
    assert gate.config_patch_applied == {"learning_rate": 5e-4, "gradient_accumulation_steps": 3}
    assert (plan.start_step, plan.target_step) == (10, 20)


def test_1_after_an_error_at_the_target_training_goes_on_from_before_it() -> None:
    gate, plan = second_gate(Outcome(reason="runtime_error", end_step=20))
    assert (gate.decision, gate.reason) == ("retune", "runtime_error")
    assert (plan.start_step, plan.target_step) == (10, 20)


def test_1_a_chunk_that_completed_short_of_its_target_has_not() -> None:
    gate, _ = second_gate(Outcome(end_step=19))
    assert gate.reason == "runtime_error"


def checkout(**fields: Any) -> RunSpec:
    """Saves every 5 updates, at or past the target."""
    return only("video_tokenizer", backend="checkout", **fields)


@pytest.mark.parametrize(("end", "reason"), [(9, "runtime_error"), (10, "healthy"), (14, "healthy")])
def test_1_a_checkout_may_end_past_its_target_by_less_than_the_log_interval(end: int, reason: str) -> None:
    story = Story(checkout(), {("video_tokenizer", 1): Outcome(end_step=end)}).play()
    gate, plan = story.gates[0], story.plans[1]
    assert (gate.reason, gate.gate_step) == (reason, end)
    if reason == "healthy":
        assert (gate.resume_from, gate.resume_step) == (checkpoint("video_tokenizer", end), end)
        assert (plan.start_step, plan.target_step) == (end, 20)
        assert story.state.stages["video_tokenizer"].highest == 20


@pytest.mark.parametrize(
    ("spec", "end"), [(checkout(), 15), (only("video_tokenizer"), 11)], ids=["checkout", "own"]
)
def test_1_a_chunk_that_ends_too_far_past_its_target_has_not_completed(spec: RunSpec, end: int) -> None:
    gate = Story(spec, {("video_tokenizer", 1): Outcome(end_step=end)}).play().gates[0]
    assert (gate.reason, failed(gate)) == ("runtime_error", [1, 3])


def test_1_a_checkouts_stage_may_be_complete_past_its_target() -> None:
    story = Story(checkout(), {("video_tokenizer", 2): Outcome(end_step=23)}).play()
    assert story.status == "stage_completed"
    assert story.state.stages["video_tokenizer"].highest == 23


# --- 2: both GPUs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen", [False, None])
def test_2_an_idle_second_gpu_reruns_the_chunk_with_knobs_unchanged(seen: bool | None) -> None:
    gate, plan = second_gate(replace(ON_GPUS, dual_gpu_ok=seen))
    assert (gate.decision, gate.reason, gate.retries_used, failed(gate)) == ("retune", "gpu_guard", 1, [2])
    assert gate.config_patch_applied == {}
    assert (plan.start_step, plan.target_step) == (10, 20)


@pytest.mark.parametrize(
    ("outcome", "spec"),
    [
        (ON_GPUS, only("video_tokenizer")),
        (Outcome(device="cpu", dual_gpu_ok=None), only("video_tokenizer")),
        (
            replace(ON_GPUS, dual_gpu_ok=False),
            only("video_tokenizer", policy={"enforce_dual_gpu_check": False}),
        ),
        (
            replace(ON_GPUS, dual_gpu_ok=False),
            only("video_tokenizer", config={"training": {"nproc_per_node": 1}}),
        ),
    ],
    ids=["both active", "cpu", "not enforced", "one process"],
)
def test_2_applies_on_cuda_with_two_processes_under_enforcement(outcome: Outcome, spec: RunSpec) -> None:
    story = Story(spec, {("video_tokenizer", 1): outcome}).play()
    assert story.gates[0].decision == "continue"


@pytest.mark.parametrize(
    ("enforced", "observed", "threshold", "text"),
    [
        (True, True, True, "both GPUs were active, by evidence"),
        (False, True, None, "two GPUs are not asked for"),
        (False, False, None, "nobody watched the GPUs, and nothing asks for it"),
    ],
)
def test_2_says_whether_two_gpus_are_asked_for(
    enforced: bool, observed: bool, threshold: bool | None, text: str
) -> None:
    spec = only("video_tokenizer", policy={"enforce_dual_gpu_check": enforced})
    outcome = replace(ON_GPUS, observed=observed)
    gate = Story(spec, {("video_tokenizer", 1): outcome}).play().gates[0]
    reason = next(reason for reason in gate.reasons if reason.check == 2)
    assert (reason.ok, reason.threshold, reason.text) == (True, threshold, text)
    assert gate.verdict == ("continue" if observed else "watch")


def test_2_and_4_a_reason_says_what_the_monitor_saw() -> None:
    silent = replace(ON_GPUS, silent_monitor=True)
    story = Story(only("video_tokenizer"), {("video_tokenizer", 1): silent}).play()
    plan = story.last_plan
    story.record(gpu_evidence(plan, ON_GPUS).model_copy(update={"decided_by": "utilization"}))
    lost = {"visual": None, "visual_problem": "the file is torn"}
    story.record(artifact_evidence(plan).model_copy(update=lost)).play()
    texts = {reason.check: reason.text for reason in story.gates[0].reasons}
    assert texts[2] == "both GPUs were active, by utilization"
    assert texts[4] == "there is no picture to look at: the file is torn"


# --- 3: the checkpoint ------------------------------------------------------------------------------------


def test_3_an_invalid_checkpoint_pins_the_newest_valid_one_and_trains_to_the_same_target() -> None:
    gate, plan = second_gate(Outcome(checkpoint="invalid"))
    assert (gate.decision, gate.reason, gate.config_patch_applied) == ("retune", "invalid_checkpoint", {})
    assert (plan.resume_from, plan.target_step) == (checkpoint("video_tokenizer", 10), 20)


def test_3_without_any_valid_checkpoint_the_stage_is_restarted_fresh_up_the_ladder() -> None:
    gate, plan = second_gate(Outcome(checkpoint="all invalid"))
    assert (gate.decision, gate.restarts_used, gate.resume_from) == ("restart_stage", 1, None)
    assert gate.config_patch_applied == {"learning_rate": 5e-4, "gradient_accumulation_steps": 3}
    assert (plan.start_step, plan.target_step) == (0, 10)


def test_3_where_no_checkpoint_is_listed_the_accepted_one_is_pinned() -> None:
    gate, plan = second_gate(Outcome(checkpoint="none"))
    assert (gate.reason, failed(gate)) == ("invalid_checkpoint", [3])
    assert (plan.resume_from, plan.start_step) == (checkpoint("video_tokenizer", 10), 10)


def test_3_where_the_accepted_checkpoint_is_broken_too_going_back_is_a_restart_with_knobs_unchanged() -> None:
    spec = only("video_tokenizer", config={"video_tokenizer": {"n_updates": 30}})
    story = Story(spec, {("video_tokenizer", 3): Outcome(in_work=True)}).play()
    story.lineage["video_tokenizer"][20] = False
    story.finish(story.last_plan, Outcome(checkpoint="invalid")).play()
    gate = story.gates[2]
    assert (gate.decision, gate.reason, gate.restarts_used) == ("restart_stage", "invalid_checkpoint", 1)
    assert (gate.resume_from, gate.resume_step, gate.next_target_step) == (
        checkpoint("video_tokenizer", 10),
        10,
        30,
    )
    assert gate.config_patch_applied == {}


def test_3_going_back_spends_the_budget_of_restarts() -> None:
    spec = only("video_tokenizer", config={"video_tokenizer": {"n_updates": 30}}, policy={"max_restarts": 0})
    story = Story(spec, {("video_tokenizer", 3): Outcome(in_work=True)}).play()
    story.lineage["video_tokenizer"][20] = False
    story.finish(story.last_plan, Outcome(checkpoint="invalid")).play()
    gate = story.gates[2]
    assert (gate.decision, gate.decision_on_resume, gate.restarts_used) == ("stop", "restart_stage", 0)


# --- 4 and 5: the picture, the history --------------------------------------------------------------------


def test_4_a_picture_older_than_the_chunk_reruns_it() -> None:
    gate, plan = second_gate(Outcome(fresh_picture=False))
    assert (gate.decision, gate.reason, gate.config_patch_applied) == ("retune", "stale_visualization", {})
    assert plan.start_step == 10


@pytest.mark.parametrize("outcome", [Outcome(history=False), Outcome(covered=9), Outcome(covered=0)])
def test_5_a_history_that_is_missing_or_has_holes_reruns_the_chunk(outcome: Outcome) -> None:
    gate, plan = second_gate(outcome)
    assert (gate.decision, gate.reason, gate.config_patch_applied) == ("retune", "no_history", {})
    assert plan.start_step == 10


def test_5_rows_without_any_loss_cover_nothing() -> None:
    empty = {"rows": 0, "dropped_rows": 10, "covered_steps": 10}
    gate, _ = second_gate(Outcome(measured=empty))
    assert (gate.decision, gate.reason, failed(gate)[0]) == ("retune", "no_history", 5)


def test_5_and_6_rows_whose_loss_is_not_finite_cover_their_steps_and_the_others_are_judged() -> None:
    half = {"rows": 5, "non_finite_rows": 5, "covered_steps": 10}
    gate, _ = second_gate(Outcome(measured=half, loss=1.0))
    assert (gate.decision, gate.reason) == ("retune", "gate_fail")


@pytest.mark.parametrize("missing", ["gpu_evidence", "artifact_evidence"])
def test_without_one_kind_of_evidence_nothing_is_made_of_the_other(missing: str) -> None:
    silent = Outcome(silent_monitor=True)
    story = Story(only("video_tokenizer"), {("video_tokenizer", 1): silent}).play()
    other = artifact_evidence if missing == "gpu_evidence" else gpu_evidence
    story.record(other(story.last_plan)).time_passes().play().resume().play()
    gate = story.gates[0]
    assert (gate.decision, gate.reason, failed(gate)) == ("retune", "no_evidence", [0])
    assert gate.reasons[-1].text == f"the operator goes on without {missing}"


def test_the_first_failed_check_decides_and_the_others_are_on_record() -> None:
    gate, _ = second_gate(Outcome(fresh_picture=False, loss=1.0))
    assert gate.reason == "stale_visualization"
    assert failed(gate) == [4, 6]


# --- 6: numbers -------------------------------------------------------------------------------------------


def test_6_a_failed_numeric_verdict_climbs_the_ladder_from_the_accepted_gate() -> None:
    gate, plan = second_gate(Outcome(loss=1.0))
    assert (gate.decision, gate.reason) == ("retune", "gate_fail")
    assert (plan.start_step, plan.target_step) == (10, 20)


def test_6_a_severe_collapse_with_lost_pictures_restarts_from_the_best_then_fresh() -> None:
    hot = replace(HOT, good_picture=False)
    story = Story(only("dynamics"), {("dynamics", 2): hot, ("dynamics", 3): hot}).play()
    assert [gate.decision for gate in story.gates[1:3]] == ["restart_stage", "restart_stage"]
    assert story.plans[2].resume_from == story.gates[0].best_checkpoint
    assert story.plans[3].resume_from is None  # restarted from there before


def test_6_a_severe_collapse_with_good_pictures_is_a_retune_where_pictures_bind() -> None:
    gate, _ = second_gate(HOT, only("dynamics"))
    assert gate.decision == "retune"


def test_6_collapsed_actions_restart_the_stage_because_pictures_do_not_bind_there() -> None:
    gate, _ = second_gate(COLLAPSED, only("latent_actions"))
    assert gate.decision == "restart_stage"
    assert gate.recommendations == [
        "next full cycle: fewer n_actions than 4, the action codes collapsed (never mid-run)"
    ]


def test_6_restarts_have_a_budget_of_their_own() -> None:
    story = Story(only("latent_actions"), {("latent_actions", n): COLLAPSED for n in range(2, 9)}).play()
    assert [gate.decision for gate in story.gates[1:]] == ["restart_stage", "restart_stage", "stop"]
    assert story.status == "failed"


def test_6_the_limits_bind_from_the_fraction_of_the_target_on() -> None:
    story = Story(run_spec(policy={"absolute_loss_from": 0.5}))
    policy = story.start().state.policy
    assert [binds(policy, step, 20) for step in (9, 10, 20)] == [False, True, True]


def test_6_one_rung_at_a_time_begins_again_after_progress() -> None:
    ladders = {"video_tokenizer": {"log_interval_floor": 1}}
    spec = only("video_tokenizer", policy={"ladder_mode": "one_rung", "ladders": ladders})
    bad = Outcome(loss=1.0)
    story = Story(spec, {("video_tokenizer", number): bad for number in (1, 2, 4)}).play()
    assert [gate.ladder for gate in story.gates if gate.ladder] == [
        ["learning_rate"],
        ["gradient_accumulation_steps"],
        ["learning_rate"],
    ]


# --- 7: pictures ------------------------------------------------------------------------------------------


def test_7_lost_structure_is_watch_the_first_time_and_a_retune_the_second() -> None:
    story = Story(only("dynamics"), {("dynamics", 1): FADED, ("dynamics", 2): FADED}).play()
    first, second = story.gates[:2]
    assert (first.decision, first.verdict, first.reason) == ("continue", "watch", "watch")
    assert (second.decision, second.reason, failed(second)) == ("retune", "visual_collapse", [7])
    assert second.config_patch_applied["learning_rate"] == 2e-4
    assert "contrast 0.02 is below 0.25" in second.reasons[-1].text


def test_7_a_good_picture_in_between_makes_it_the_first_time_again() -> None:
    spec = only("dynamics", config={"dynamics": {"n_updates": 30}})
    story = Story(spec, {("dynamics", 1): FADED, ("dynamics", 3): FADED}).play()
    assert [gate.decision for gate in story.gates[:3]] == ["continue"] * 3


def test_7_an_old_picture_is_not_judged_twice() -> None:
    stale = replace(FADED, fresh_picture=False)
    story = Story(only("dynamics"), {("dynamics", 1): FADED, ("dynamics", 2): stale}).play()
    assert failed(story.gates[1]) == [4]
    assert story.state.stages["dynamics"].visual_failures == 0  # the third gate's was good
    assert [gate.reason for gate in story.gates[:3]] == ["watch", "stale_visualization", "healthy"]


def test_7_does_not_bind_for_other_stages_unless_the_policy_says_so() -> None:
    outcomes = {("video_tokenizer", number): FADED for number in (1, 2)}
    gates = Story(only("video_tokenizer"), outcomes).play().gates
    assert [gate.verdict for gate in gates] == ["continue", "continue"]
    spec = only("video_tokenizer", policy={"visual": {"binds": ["video_tokenizer"]}})
    assert Story(spec, outcomes).play().gates[1].reason == "visual_collapse"


# --- the record -------------------------------------------------------------------------------------------


def test_every_gate_leaves_a_complete_record() -> None:
    gate = Story(only("dynamics")).play().gates[0]
    assert {reason.check for reason in gate.reasons} == {1, 2, 3, 4, 5, 6, 7}
    assert all(reason.ok and reason.text for reason in gate.reasons)
    final, late = gate.metrics["final_loss"], gate.metrics["late"]
    assert final is not None
    assert late == pytest.approx(final * (1 + 0.1 / 6))
    assert gate.launcher_pid == 101
    assert gate.effective_batch == 32
    assert (gate.resume_from, gate.resume_step) == (checkpoint("dynamics", 10), 10)
    assert len(gate.evidence_paths) == 3  # history, picture, checkpoint
    assert (gate.gate_step, gate.target_step, gate.next_target_step) == (10, 20, 20)


def test_of_equally_good_gates_the_first_is_the_best() -> None:
    same = Outcome(loss=0.005, rise=-0.1)
    story = Story(only("video_tokenizer"), {("video_tokenizer", number): same for number in (1, 2)}).play()
    assert story.gates[1].best_checkpoint == checkpoint("video_tokenizer", 10)


def test_a_loss_that_stays_where_it_is_extends_no_target() -> None:
    gate, _ = second_gate(Outcome(loss=0.2, rise=0.0), only("latent_actions"))
    assert "target" not in gate.ladder
    gate, _ = second_gate(Outcome(loss=0.2, rise=-0.01), only("latent_actions"))
    assert "target" in gate.ladder


def test_only_a_gate_beyond_the_highest_accepted_step_resets_the_retries() -> None:
    spec = only("dynamics", config={"dynamics": {"n_updates": 40}})
    severe = replace(HOT, good_picture=False)
    outcomes = {("dynamics", 1): Outcome(loss=1.0), ("dynamics", 3): severe}
    gates = Story(spec, outcomes).play().gates
    assert [gate.gate_step for gate in gates[:5]] == [10, 20, 30, 15, 25]
    assert [gate.retries_used for gate in gates[:5]] == [0, 0, 1, 1, 0]


def test_a_gate_at_the_highest_accepted_step_is_no_progress() -> None:
    spec = only("latent_actions", config={"latent_actions": {"n_updates": 40}})
    outcomes = {("latent_actions", 1): Outcome(loss=0.001), ("latent_actions", 3): COLLAPSED}
    gates = Story(spec, outcomes).play().gates
    assert [gate.gate_step for gate in gates[:5]] == [10, 20, 30, 20, 30]
    assert [gate.retries_used for gate in gates[:5]] == [0, 0, 1, 1, 0]


def test_a_changed_effective_batch_is_on_record() -> None:
    gate, _ = second_gate(Outcome(reason="oom"))
    assert (gate.effective_batch, gate.next_effective_batch) == (32, 16)
    gate, _ = second_gate(Outcome(loss=1.0))
    assert (gate.effective_batch, gate.next_effective_batch) == (32, 48)
    gate, _ = second_gate(Outcome(fresh_picture=False))
    assert gate.next_effective_batch is None


def test_fewer_actions_are_recommended_only_where_there_can_be_fewer() -> None:
    spec = only("latent_actions", config={"training": {"n_actions": 2}})
    assert Story(spec, {("latent_actions", 1): COLLAPSED}).play().gates[0].recommendations == []


def test_the_best_checkpoint_is_the_accepted_gate_with_the_lowest_end() -> None:
    spec = only("video_tokenizer", policy={"absolute_loss_from": 1.0})
    story = Story(spec, {("video_tokenizer", 1): Outcome(loss=1e-4)}).play()
    first, second = story.gates
    assert second.accepted_checkpoint != second.best_checkpoint == first.accepted_checkpoint
