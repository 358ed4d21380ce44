"""Operators' commands: what is taken, what is refused, and that each counts once."""

from __future__ import annotations

from typing import Any

import pytest

from services.gatekeeper.core.requests import answer
from services.gatekeeper.core.state import RunState
from shared.events import CommandRejected, PauseRun, ResumeRun, RunSpec, StartRun, StopRun
from tests.unit.gatekeeper.story import RUN_ID, UPSTREAM, Outcome, Story, only, run_spec


def running() -> Story:
    return Story(only("video_tokenizer"), {("video_tokenizer", 1): Outcome(in_work=True)}).play()


def refusal(story: Story) -> str:
    event = story.events[-1]
    assert isinstance(event, CommandRejected), story.text
    return event.reason


def test_the_same_request_sent_twice_counts_once() -> None:
    story = running()
    command = PauseRun(run_id=RUN_ID, request_id="same")
    story.ask(command)
    assert answer(story.state, command) is None


def test_a_refused_request_sent_twice_is_refused_once() -> None:
    story = running()
    command = ResumeRun(run_id=RUN_ID, request_id="same")
    story.ask(command)
    assert refusal(story) == "the run is neither paused nor ended"
    assert answer(story.state, command) is None


def test_a_run_that_nobody_knows_cannot_be_stopped() -> None:
    event = answer(RunState(RUN_ID), StopRun(run_id=RUN_ID, request_id="x"))
    assert isinstance(event, CommandRejected)
    assert "there is no run" in event.reason


def test_a_run_is_started_once() -> None:
    story = running()
    story.ask(StartRun(run_id=RUN_ID, request_id="again", spec=story.spec))
    assert "exists already" in refusal(story)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (run_spec(policy={"max_retires": 3}), "max_retires: Extra inputs are not permitted"),
        (run_spec(config={"dynamics": {"num_heads": 7}}), "no multiple of num_heads 7"),
        (run_spec(stages=("dynamics",)), "no checkpoint is given for latent_actions, video_tokenizer"),
        (run_spec(stages=(), inference=False), "there is nothing to do"),
        (run_spec(checkpoints=UPSTREAM["checkpoints"]), "given_steps lacks"),
    ],
)
def test_a_run_that_cannot_work_is_refused(spec: RunSpec, why: str) -> None:
    event = answer(RunState(RUN_ID), StartRun(run_id=RUN_ID, request_id="x", spec=spec))
    assert isinstance(event, CommandRejected)
    assert why in event.reason


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"n_actions": 8}, "decides the shapes of the weights"),
        ({"embed_dim": 64}, "decides the shapes of the weights"),
        ({"n_updates": 100}, "cannot be retuned"),
        ({"batch_size_per_gpu": 3}, "below the floor of video_tokenizer, 4"),
        ({"learning_rate": 1e-9}, "is not within 1e-06 and 1"),
        ({"learning_rate": "fast"}, "learning_rate: Input should be a valid number"),
        ({"log_interval": 0}, "greater than 0"),
        ({"log_interval": True}, "is no number"),
        ({}, "nothing to change"),
    ],
)
def test_a_retune_changes_knobs_only_and_keeps_the_floors(changes: dict[str, Any], why: str) -> None:
    spec = only("video_tokenizer", policy={"min_batch_size": {"video_tokenizer": 4}})
    story = Story(spec, {("video_tokenizer", 1): Outcome(in_work=True)}).play().retune(**changes)
    assert why in refusal(story)


def test_a_retune_of_a_stage_that_is_not_trained_or_over_is_refused() -> None:
    story = Story(outcomes={("latent_actions", 1): Outcome(in_work=True)}).play()
    assert "video_tokenizer is completed" in refusal(story.retune("video_tokenizer", learning_rate=1e-4))
    assert "dynamics is not trained in this run" in refusal(running().retune("dynamics", learning_rate=1e-4))


def test_a_retune_may_name_a_stage_to_come() -> None:
    story = Story(outcomes={("video_tokenizer", 1): Outcome(in_work=True)}).play()
    story.retune("dynamics", learning_rate=1e-4)
    story.finish(story.last_plan).play()
    assert [plan.schedule.peak for plan in story.plans if plan.stage == "dynamics"] == [1e-4, 1e-4]


def test_what_makes_no_sense_now_is_refused() -> None:
    story = running()
    assert "paused already" in refusal(story.pause().pause())
    assert "being stopped already" in refusal(story.stop().stop())
    assert "the run is ending; resume it when it has ended" in refusal(story.resume())
    story.play()
    assert "has ended as stopped" in refusal(story.pause())
    assert "resumed already" in refusal(story.resume().resume())
    story.outcomes = {}
    assert "has ended as stage_completed; start a new one" in refusal(story.play().resume())
