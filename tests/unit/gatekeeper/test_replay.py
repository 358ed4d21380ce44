"""Gates decided once more: the same policy gives the same decisions, another one says where it parts."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as some

from services.gatekeeper.config import Policy
from services.gatekeeper.core.replay import Replay, replay
from shared.events import STAGES
from tests.unit.gatekeeper.policies import policies
from tests.unit.gatekeeper.story import COLLAPSED, DIVERGING, Outcome, Story, only, run_spec
from tests.unit.gatekeeper.test_pipeline import tokenizer

SHAKY = Outcome(loss=0.015)
"""Watched under the policy of the tests: above 0.01, not above 0.02."""


def again(story: Story, *, max_mse: float | None = None, **changes: Any) -> Replay:
    """The story's gates under its own policy with these keys changed."""
    state = story.state
    policy = Policy.model_validate({**state.policy.model_dump(), **changes})
    limit = state.inference.max_mse if max_mse is None else max_mse
    return replay(story.log, story.run_id, policy=policy, max_mse=limit)


def limits(**tokenizer: float) -> dict[str, Any]:
    return {"limits": {"video_tokenizer": tokenizer}}


outcomes = some.dictionaries(
    some.tuples(some.sampled_from(STAGES), some.integers(1, 6)),
    some.sampled_from(
        [
            SHAKY,
            DIVERGING,
            COLLAPSED,
            Outcome(reason="oom"),
            Outcome(reason="oom", checkpoint="none"),
            Outcome(reason="non_finite"),
            Outcome(checkpoint="invalid"),
            Outcome(checkpoint="all invalid"),
            Outcome(good_picture=False),
            Outcome(fresh_picture=False),
            Outcome(history=False),
            Outcome(device="cuda", dual_gpu_ok=False),
            Outcome(device="cuda", observed=False),
            Outcome(silent_monitor=True),
            Outcome(dead_trainer=True),
        ]
    ),
    max_size=12,
)
tests = some.lists(some.sampled_from([{}, {"mse": 0.5}, {"skill": -1.0}, {"picture": None}]), max_size=4)
POLICIES = policies()


def played(outcomes: Any, tests: Any, **spec: Any) -> Story:
    """A run to its end, resumed by its operator when it is paused, and once when it has failed."""
    story = Story(run_spec(**spec), dict(outcomes), [dict(test) for test in tests]).play()
    again = True
    for _ in range(200):
        if story.state.paused is not None or (story.state.finished is not None and again):
            again = again and story.state.paused is not None
            story.resume()
        elif story.state.finished is not None:
            return story
        else:
            story.time_passes()
        story.play()
    raise AssertionError("no end:\n" + story.text)


@settings(max_examples=60)
@given(outcomes=outcomes, tests=tests, policy=POLICIES, observe=some.booleans())
def test_under_its_own_policy_every_decision_of_any_run_is_made_again(
    outcomes: Any, tests: Any, policy: Any, observe: bool
) -> None:
    story = played(outcomes, tests, policy=policy, observe=observe)
    found = again(story)
    assert [gate.replayed for gate in found.gates] == story.gates
    assert found.parting is None


@settings(max_examples=60)
@given(outcomes=outcomes, tests=tests, policy=POLICIES, other=POLICIES)
def test_under_any_policy_every_gate_of_any_run_is_judged(
    outcomes: Any, tests: Any, policy: Any, other: Any
) -> None:
    story = played(outcomes, tests, policy=policy)
    found = again(story, **other)
    assert [gate.recorded for gate in found.gates] == story.gates
    assert all(gate.replayed is not None or gate.instead for gate in found.gates)
    assert (found.parting is not None) >= any(gate.elsewhere for gate in found.gates)


def test_a_pause_a_retune_a_stop_and_a_resume_are_replayed() -> None:
    story = tokenizer(Outcome(), Outcome(in_work=True)).play()
    story.retune(learning_rate=5e-4).stop().play().resume().play()
    assert [gate.decision for gate in story.gates] == ["continue", "stop", "continue"]
    found = again(story)
    assert [gate.replayed for gate in found.gates] == story.gates


def test_a_limit_that_is_failed_sends_the_run_elsewhere_and_what_follows_is_marked() -> None:
    story = tokenizer(SHAKY).play()
    first, second = again(story, **limits(watch_final_loss=0.012)).gates
    assert first.recorded.decision == "continue"
    assert first.replayed is not None
    assert (first.replayed.decision, first.replayed.reason) == ("retune", "gate_fail")
    assert first.replayed.config_patch_applied["learning_rate"] == 5e-4
    assert not first.elsewhere
    assert second.elsewhere
    assert second.differing == ()


def test_a_flag_alone_sends_the_run_nowhere_else() -> None:
    story = tokenizer(SHAKY).play()
    found = again(story, **limits(continue_final_loss=0.02))
    assert [gate.differing for gate in found.gates] == [("verdict", "reason"), ()]
    assert found.parting is None


def test_retries_are_counted_as_the_other_policy_counts_them() -> None:
    """Fails, passes, fails: with the budget in total the second failure is one too many."""
    spec = only("video_tokenizer", policy={"max_retries": 1})
    story = tokenizer(DIVERGING, Outcome(), DIVERGING, Outcome(), spec=spec).play()
    assert [gate.retries_used for gate in story.gates] == [1, 0, 1, 0]
    found = again(story, retry_budget="total")
    decisions = [gate.replayed.decision for gate in found.gates if gate.replayed is not None]
    assert decisions == ["retune", "continue", "stop", "continue"]
    assert found.parting == "at the gate of video_tokenizer, attempt 3"
    assert [gate.elsewhere for gate in found.gates] == [False, False, False, True]


def test_other_chunks_part_before_the_first_gate() -> None:
    story = tokenizer().play()
    chunk = {"video_tokenizer": 20, "latent_actions": 10, "dynamics": 10}
    found = again(story, chunk=chunk)
    assert found.parting == ("before video_tokenizer, attempt 1: it would have trained to 20 instead of 10")
    assert all(gate.elsewhere for gate in found.gates)


def test_a_gate_that_would_have_waited_for_the_operator_says_so() -> None:
    blind = Outcome(device="cuda", observed=False)
    spec = only("video_tokenizer", policy={"enforce_dual_gpu_check": False})
    story = tokenizer(blind, Outcome(reason="oom", device="cuda"), blind, spec=spec).play()
    found = again(story, enforce_dual_gpu_check=True)
    assert found.gates[0].replayed is not None
    assert found.gates[0].replayed.reason == "gpu_unobserved"
    assert found.parting == "at the gate of video_tokenizer, attempt 1"


def test_a_run_that_would_have_ended_before_a_gate_says_so() -> None:
    story = tokenizer(Outcome(dead_trainer=True)).play()
    story.time_passes()
    story.outcomes = {}
    story.play()
    found = again(story, max_command_retries=0)
    assert found.gates[0].replayed is None
    assert found.gates[0].instead.startswith(
        "the run would have ended before, failed: the trainer did not begin video_tokenizer attempt 1"
    )
    assert found.gates[0].differing == ("decision",)
    assert found.gates[1].replayed is not None


def test_the_inference_gate_is_judged_by_another_limit() -> None:
    story = Story(only("dynamics"), tests=[{"mse": 0.02, "skill": 0.3}]).play()
    found = again(story, max_mse=0.01)
    assert found.gates[-1].replayed is not None
    assert found.gates[-1].replayed.decision == "retune"
    found = again(story, require={"skill": {"above": 0.5}})
    assert found.gates[-1].replayed is not None
    assert found.gates[-1].replayed.reason == "inference_metric"


def test_an_observed_run_shows_what_another_policy_would_have_withheld() -> None:
    story = tokenizer(SHAKY, spec=only("video_tokenizer", observe=True)).play()
    found = again(story, **limits(watch_final_loss=0.012))
    assert found.gates[0].replayed is not None
    assert found.gates[0].replayed.observed is not None
    assert found.gates[0].replayed.observed.decision == "retune"
    assert found.gates[0].differing == ("verdict", "reason", "observed")
    assert found.parting is None
    assert not found.gates[1].elsewhere
