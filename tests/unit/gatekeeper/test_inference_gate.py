"""The inference gate: each condition to pass, and what a failure leads to."""

from __future__ import annotations

from typing import Any

import pytest

from services.gatekeeper.config import Policy
from shared.events import STAGES, GateDecided, RunSpec
from tests.unit.gatekeeper.story import Story, only


def gate(numbers: dict[str, Any], spec: RunSpec | None = None) -> GateDecided:
    """The decision on a test with these numbers; a test that cannot be used has them every time."""
    story = Story(spec or only("dynamics"), tests=[numbers] * 4).play()
    return next(gate for gate in story.gates if gate.stage == "inference")


def requiring(**bounds: Any) -> RunSpec:
    return only("dynamics", policy={"require": bounds})


@pytest.mark.parametrize(
    ("numbers", "check"),
    [
        ({"ok": False, "problem": "killed"}, 1),
        ({"checkpoints": {"dynamics": "a"}}, 2),
        ({"checkpoints": dict.fromkeys(STAGES, "results/run/another")}, 2),
        ({"frames_inferred": 95}, 3),
        ({"frames_expected": 0, "frames_inferred": 0}, 3),
        ({"mse": None}, 4),
        ({"picture": None}, 5),
    ],
)
def test_a_test_that_is_not_whole_never_passes_and_says_why(numbers: dict[str, Any], check: int) -> None:
    found = gate(numbers)
    assert (found.decision, found.reason) == ("stop", "inference_crash")
    assert [reason.check for reason in found.reasons if not reason.ok] == [check]


@pytest.mark.parametrize(("mse", "decision"), [(0.03, "continue"), (0.0301, "retune")])
def test_the_mse_must_not_be_above_the_limit_of_the_configuration(mse: float, decision: str) -> None:
    assert gate({"mse": mse}).decision == decision


@pytest.mark.parametrize(("standard", "decision"), [(0.03, "continue"), (0.0301, "retune")])
def test_where_one_clip_was_asked_for_its_number_gates(standard: float, decision: str) -> None:
    found = gate({"gated_by": "mse_standard", "mse_standard": standard, "mse": 0.5 - standard})
    assert found.decision == decision
    assert [(each.name, each.value) for each in found.reasons if each.check == 6] == [
        ("mse_standard", standard)
    ]


def test_a_test_of_one_clip_needs_no_other_number() -> None:
    assert gate({"gated_by": "mse_standard", "mse_standard": 0.01, "mse": None}).decision == "continue"
    found = gate({"gated_by": "mse_standard", "mse_standard": None})
    assert (found.decision, found.reason) == ("stop", "inference_crash")


def test_the_policy_can_require_that_a_number_is_beyond_doubt() -> None:
    assert gate({"skill": 0.4, "skill_low": -0.1}, requiring(skill_low={"above": 0})).decision == "retune"
    assert gate({"skill": 0.4, "skill_low": 0.1}, requiring(skill_low={"above": 0})).decision == "continue"


def test_the_film_is_evidence_and_its_failure_a_warning() -> None:
    found = gate({"video": "inference_results/a.mp4", "preview": "inference_results/a.webp"})
    assert found.evidence_paths[1:] == ["inference_results/a.mp4", "inference_results/a.webp"]
    assert gate({"video_problem": "a.mp4: no encoder"}).decision == "continue"


def test_the_limit_is_the_configurations() -> None:
    spec = only("dynamics", config={"inference": {"max_mse": 0.2}})
    assert gate({"mse": 0.1}, spec).decision == "continue"


@pytest.mark.parametrize(
    ("bounds", "skill", "decision"),
    [
        ({"above": 0.0}, 0.1, "continue"),
        ({"above": 0.0}, 0.0, "retune"),
        ({"min": 0.0}, 0.0, "continue"),
        ({"min": 0.5, "max": 0.6}, 0.7, "retune"),
        ({"above": 0.0}, None, "retune"),
    ],
)
def test_the_policy_can_require_any_number(
    bounds: dict[str, float], skill: float | None, decision: str
) -> None:
    assert gate({"skill": skill}, requiring(skill=bounds)).decision == decision


def test_a_number_that_does_not_exist_cannot_be_required() -> None:
    with pytest.raises(ValueError, match="luck: no such number"):
        Policy.model_validate({"require": {"luck": {"min": 1}}})


def test_a_pass_on_mse_alone_is_flagged() -> None:
    found = gate({"skill": -0.1})
    assert (found.decision, found.verdict) == ("continue", "watch")
    assert found.recommendations == ["skill -0.1: the model is no better than repeating the last frame"]
    found = gate({"skill": 0.0})
    assert (found.verdict, len(found.recommendations)) == ("watch", 1)
    assert gate({"skill": 0.01}).recommendations == []


def test_a_tokenizer_above_the_limit_is_named_as_the_first_thing_to_do() -> None:
    found = gate({"mse": 0.5, "tokenizer_mse": 0.04})
    assert found.recommendations[0].startswith("a better tokenizer first")


def test_the_peak_falls_with_every_failure_and_never_rises() -> None:
    story = Story(only("dynamics", policy={"max_inference_retries": 4}), tests=[{"mse": 0.5}] * 5).play()
    peaks = [plan.schedule.peak for plan in story.plans]
    assert peaks == sorted(peaks, reverse=True)
    expected = [5e-4 * 0.7**count for count in (1, 2, 3, 4)]
    *again, last = [gate for gate in story.gates if gate.stage == "inference"]
    assert [gate.config_patch_applied["learning_rate"] for gate in again] == pytest.approx(expected)
    assert (last.decision, last.config_patch_applied) == ("stop", {})


def test_the_record_says_where_dynamics_goes_on() -> None:
    found = gate({"mse": 0.5})
    assert (found.gate_step, found.resume_step, found.target_step, found.next_target_step) == (20, 20, 30, 30)
    assert found.resume_from == found.best_checkpoint


def test_a_number_at_its_limit_is_within_it() -> None:
    assert gate({"skill": 0.5}, requiring(skill={"max": 0.5})).decision == "continue"
    assert gate({"mse": 0.5, "tokenizer_mse": 0.03}).recommendations == []


def test_the_peak_falls_from_the_last_one_where_that_is_lower() -> None:
    spec = only("dynamics", config={"dynamics": {"learning_rate": 1e-4}})
    assert gate({"mse": 0.5}, spec).config_patch_applied["learning_rate"] == pytest.approx(7e-5)


def test_a_stop_says_what_a_resume_would_do() -> None:
    found = gate({"mse": 0.5}, only("dynamics", policy={"max_inference_retries": 0}))
    assert (found.decision, found.decision_on_resume) == ("stop", "retune")
    assert (found.config_patch_applied, list(found.config_patch_on_resume)) == ({}, ["learning_rate"])
    crashed = gate({"ok": False, "problem": "killed"})
    assert (crashed.decision_on_resume, crashed.config_patch_on_resume) == (None, {})


def test_other_checkpoints_than_those_selected_are_counted() -> None:
    reason = next(reason for reason in gate({"checkpoints": {}}).reasons if reason.name == "checkpoints")
    assert (reason.value, reason.threshold) == (0, 3)
