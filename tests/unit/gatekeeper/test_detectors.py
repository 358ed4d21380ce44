"""The numeric detectors: their limits from both sides, what they never trip over, what they always catch."""

from __future__ import annotations

from typing import Any

import pytest

from services.gatekeeper.config import LossSpike, NonFinite, Stagnation, Throughput
from services.gatekeeper.core.detectors import loss_spike, non_finite, stagnation, throughput
from shared.events import STAGES, GateDecided, HistoryStats, LossLevels, Stage
from tests.unit.gatekeeper.histories import SURE, History, healthy, sick
from tests.unit.gatekeeper.story import Outcome, Story, checkpoint, only, run_spec

EMPTY = HistoryStats(
    file="Logs/h.csv",
    rows=100,
    dropped_rows=0,
    first_step=0,
    last_step=99,
    covered_steps=100,
    final_loss=1.0,
    min_loss=1.0,
    median_loss=1.0,
    loss=None,
)


def levels(last: float, *, lowest: float = 1.0, first: float = 2.0, noise: float = 0.01) -> LossLevels:
    return LossLevels(first=first, lowest=lowest, last=last, noise=noise)


def measured(**numbers: Any) -> HistoryStats:
    return EMPTY.model_copy(update=numbers)


# --- the limits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "broken", "tail", "ok"),
    [(100, 2, 2, True), (100, 3, 3, False), (100, 50, 2, True), (0, 1, 1, False), (0, 2, 2, False)],
)
def test_a_tail_of_rows_without_a_finite_loss(*, rows: int, broken: int, tail: int, ok: bool) -> None:
    history = measured(rows=rows, non_finite_rows=broken, non_finite_tail=tail)
    found = non_finite(history, NonFinite())
    assert found is not None
    assert (found.ok, found.value, found.threshold) == (ok, tail, 3)


def test_where_every_loss_is_finite_there_is_nothing_to_say() -> None:
    assert non_finite(measured(dropped_rows=7), NonFinite()) is None


@pytest.mark.parametrize(
    ("given", "ok", "limit"),
    [
        (levels(1.3), True, 1.3),
        (levels(1.301), False, 1.3),
        (levels(1.8, noise=0.1), True, 1.8),
        (levels(1.801, noise=0.1), False, 1.8),
        (levels(0.5, noise=0.0), True, 1.3),
        (levels(1.31, noise=0.0), False, 1.3),
    ],
)
def test_a_spike_is_above_both_the_noise_and_the_ratio(given: LossLevels, limit: float, *, ok: bool) -> None:
    found = loss_spike(given, LossSpike())
    assert found.ok == ok
    assert found.threshold == pytest.approx(limit)


@pytest.mark.parametrize(
    ("last", "share", "ok"), [(1.9, 1.0, True), (1.901, 1.0, False), (1.901, 0.25, False), (2.5, 0.249, True)]
)
def test_a_stage_stagnates_where_it_has_not_left_the_level_it_began_with(
    last: float, share: float, *, ok: bool
) -> None:
    found = stagnation(last, 2.0, share, Stagnation())
    assert ("at or below" in found.text) == (last <= 1.9)
    assert ("does not bind" in found.text) == (share < 0.25)
    assert found.ok == ok
    assert found.threshold == pytest.approx(1.9)


@pytest.mark.parametrize(
    ("slowdown", "seconds", "before", "expected"),
    [
        (1.99, 1.99, 1.0, [True, True]),
        (2.0, 2.0, 1.0, [False, False]),
        (None, 9.0, None, []),
        (None, None, 1.0, []),
        (0.5, None, 1.0, [True]),
    ],
)
def test_throughput_is_judged_within_the_chunk_and_against_the_stages_fastest(
    slowdown: float | None, seconds: float | None, before: float | None, expected: list[bool]
) -> None:
    found = throughput(measured(slowdown=slowdown, update_seconds=seconds), before, Throughput())
    assert [reason.ok for reason in found] == expected


# --- what follows -----------------------------------------------------------------------------------------

SPIKE = Outcome(measured={"levels": levels(5.0, first=9.0)})
LOST = Outcome(measured={"non_finite_rows": 4, "non_finite_tail": 4})
FLAT = Outcome(measured={"levels": levels(2.0, first=2.0, lowest=1.99)})
SLOW = Outcome(measured={"slowdown": 3.0, "update_seconds": 0.3})


def tokenizer(*outcomes: Outcome, stage: Stage = "video_tokenizer", **policy: Any) -> Story:
    spec = only(stage, policy=policy)
    return Story(spec, {(stage, number): each for number, each in enumerate(outcomes, 1)}).play()


def test_a_spike_rolls_back_to_the_accepted_gate_and_cuts_the_learning_rate_alone() -> None:
    story = tokenizer(Outcome(), SPIKE)
    gate, plan = story.gates[1], story.plans[2]
    assert (gate.decision, gate.reason, gate.retries_used) == ("retune", "loss_spike", 1)
    assert gate.config_patch_applied == {"learning_rate": 5e-4}
    assert (plan.resume_from, plan.start_step, plan.target_step) == (
        checkpoint("video_tokenizer", 10),
        10,
        20,
    )
    assert gate.ladder == []


def test_a_spike_never_takes_the_rate_below_the_policys_lowest() -> None:
    gate = tokenizer(Outcome(), SPIKE, min_learning_rate=8e-4).gates[1]
    assert gate.config_patch_applied == {"learning_rate": 8e-4}


def test_a_loss_that_is_no_number_any_more_climbs_the_ladder_from_the_accepted_gate() -> None:
    story = tokenizer(Outcome(), LOST)
    assert (story.gates[1].decision, story.gates[1].reason) == ("retune", "non_finite")
    assert story.gates[1].config_patch_applied == {"learning_rate": 5e-4, "gradient_accumulation_steps": 3}
    assert story.plans[2].start_step == 10


def test_a_history_whose_every_loss_is_no_number_is_a_numeric_failure_and_no_missing_history() -> None:
    all_lost = {"rows": 0, "non_finite_rows": 10, "non_finite_tail": 10, "final_loss": None, "loss": None}
    gate = tokenizer(Outcome(), Outcome(measured={**all_lost, "covered_steps": 10})).gates[1]
    assert (gate.reason, [reason.check for reason in gate.reasons if not reason.ok]) == ("gate_fail", [6, 6])


def test_stagnation_is_watch_the_first_time_and_a_retune_the_second() -> None:
    first, second = tokenizer(FLAT, FLAT).gates[:2]
    assert (first.decision, first.verdict) == ("continue", "watch")
    assert (second.decision, second.reason) == ("retune", "stagnation")
    assert second.config_patch_applied == {"learning_rate": 5e-4, "gradient_accumulation_steps": 3}


def test_stagnation_counts_from_the_fraction_of_the_target_on() -> None:
    gates = tokenizer(FLAT, FLAT, detectors={"stagnation": {"from_share": 0.75}}).gates
    assert [gate.decision for gate in gates] == ["continue", "continue"]


def test_a_chunk_without_levels_neither_counts_nor_clears_stagnation() -> None:
    spec = only("video_tokenizer", config={"video_tokenizer": {"n_updates": 30}})
    outcomes = {("video_tokenizer", 1): FLAT, ("video_tokenizer", 3): FLAT}
    story = Story(spec, outcomes).play()
    assert [gate.reason for gate in story.gates[:3]] == ["watch", "healthy", "stagnation"]


def test_progress_clears_stagnation() -> None:
    fell = Outcome(measured={"levels": levels(1.0, first=1.1, lowest=1.0)})
    spec = only("video_tokenizer", config={"video_tokenizer": {"n_updates": 30}})
    outcomes = {("video_tokenizer", number): how for number, how in enumerate((FLAT, fell, FLAT), 1)}
    assert [gate.decision for gate in Story(spec, outcomes).play().gates] == ["continue"] * 3


def test_a_stage_that_began_with_a_given_checkpoint_has_no_level_to_have_left() -> None:
    given: dict[str, Any] = {
        "checkpoints": {"video_tokenizer": "given/vt"},
        "given_steps": {"video_tokenizer": 5},
    }
    story = Story(only("video_tokenizer", **given), {("video_tokenizer", n): FLAT for n in (1, 2)}).play()
    assert [gate.decision for gate in story.gates] == ["continue"] * 2


def test_a_drop_in_throughput_flags_the_gate_and_never_fails_it() -> None:
    first, second = tokenizer(Outcome(measured={"update_seconds": 0.1}), SLOW).gates
    assert first.verdict == "continue"
    assert (second.decision, second.verdict) == ("continue", "watch")
    flagged = [reason.name for reason in second.reasons if not reason.ok]
    assert flagged == ["throughput", "throughput_of_stage"]


def test_another_effective_batch_has_another_pace() -> None:
    fast, slow = (Outcome(measured={"update_seconds": seconds}) for seconds in (0.1, 0.4))
    story = Story(only("video_tokenizer"), {("video_tokenizer", 1): fast, ("video_tokenizer", 2): slow})
    story.play()
    assert story.gates[1].verdict == "watch"
    oom = Outcome(reason="oom", end_step=10, measured={"update_seconds": 0.1})
    outcomes = {("video_tokenizer", 1): fast, ("video_tokenizer", 2): oom, ("video_tokenizer", 3): slow}
    story = Story(only("video_tokenizer"), outcomes).play()
    assert [gate.verdict for gate in story.gates] == ["continue", "retune", "continue"]


@pytest.mark.parametrize(
    ("name", "outcome"),
    [("non_finite", LOST), ("loss_spike", SPIKE), ("stagnation", FLAT), ("throughput", SLOW)],
)
def test_each_detector_can_be_switched_off(name: str, outcome: Outcome) -> None:
    story = tokenizer(outcome, outcome, detectors={name: {"enabled": False}})
    assert [gate.verdict for gate in story.gates] == ["continue", "continue"]


def test_the_documents_own_limits_decide_first() -> None:
    gate = tokenizer(Outcome(), Outcome(loss=1.0, measured={"levels": levels(5.0)})).gates[1]
    assert gate.reason == "gate_fail"
    assert "loss_spike" in {reason.name for reason in gate.reasons if not reason.ok}


# --- the corpus -------------------------------------------------------------------------------------------

LAX = {
    "limits": {
        "video_tokenizer": dict.fromkeys(
            ("continue_final_loss", "continue_late_over_mid", "watch_final_loss"), 1e9
        )
    }
}
"""Only the detectors judge."""


def gates_of(history: History) -> list[GateDecided]:
    """The gates of a run with this history, judged by the gatekeeper until it refuses one."""
    stage: Stage = "video_tokenizer"
    updates = history.length * len(history.chunks)
    spec = run_spec(
        stages=(stage,),
        inference=False,
        policy={**LAX, "chunk": dict.fromkeys(STAGES, history.length), "max_retries": 0},
        config={stage: {"n_updates": updates}},
    )
    outcomes: dict[tuple[str, int], Outcome] = {}
    for number, stats in enumerate(history.stats(), 1):
        numbers = {name: value for name, value in stats if name != "covered_steps"}
        outcomes[stage, number] = Outcome(measured=numbers)
    return Story(spec, outcomes).play().gates


def test_no_healthy_history_is_stopped_retuned_or_flagged() -> None:
    histories = list(healthy())
    assert len(histories) >= 200
    blamed = {}
    for history in histories:
        failed = [
            reason.text
            for gate in gates_of(history)
            for reason in gate.reasons
            if not reason.ok and reason.name != "trend"
        ]
        if failed:
            blamed[history.name] = failed
    assert blamed == {}


@pytest.mark.parametrize("sickness", SURE)
def test_every_history_that_is_clearly_sick_is_caught(sickness: str) -> None:
    name = {"divergence": "loss_spike", "non_finite": "non_finite_tail"}.get(sickness, sickness)
    for history in sick(sickness, SURE[sickness]):
        caught = {reason.name for gate in gates_of(history) for reason in gate.reasons if not reason.ok}
        assert name in caught, history.name
