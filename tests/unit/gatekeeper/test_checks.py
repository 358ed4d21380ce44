"""Each row of the table of gate checks: what fails, what is decided, where it goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from services.gatekeeper.core.verdicts import binds
from shared.events import ChunkPlan, GateDecided, RunSpec
from tests.unit.gatekeeper.story import COLLAPSED, Outcome, Story, checkpoint, only, run_spec

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


def test_1_a_chunk_that_completed_short_of_its_target_has_not() -> None:
    gate, _ = second_gate(Outcome(end_step=19))
    assert gate.reason == "runtime_error"


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


def test_the_best_checkpoint_is_the_accepted_gate_with_the_lowest_end() -> None:
    spec = only("video_tokenizer", policy={"absolute_loss_from": 1.0})
    story = Story(spec, {("video_tokenizer", 1): Outcome(loss=1e-4)}).play()
    first, second = story.gates
    assert second.accepted_checkpoint != second.best_checkpoint == first.accepted_checkpoint
