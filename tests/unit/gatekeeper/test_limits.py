"""What is waited for within a limit, and what holds a limit back."""

from __future__ import annotations

from services.gatekeeper.core.limits import Waiting, waiting
from services.gatekeeper.timers import Timers
from shared.events import CommandTimedOut, EvidenceTimedOut
from tests.unit.gatekeeper.story import Outcome, Story, only

SHORT = only("video_tokenizer", policy={"evidence_timeout_sec": 7.0, "command_timeout_sec": {"chunk": 30.0}})


def wait_of(story: Story) -> Waiting:
    wait = waiting(story.state)
    assert wait is not None
    return wait


def dead_trainer() -> Story:
    return Story(SHORT, {("video_tokenizer", 1): Outcome(dead_trainer=True)}).play()


def test_a_chunk_command_has_a_limit_until_the_chunk_has_started() -> None:
    wait = wait_of(dead_trainer())
    assert wait.limit_sec == 30.0
    assert isinstance(wait.over, CommandTimedOut)
    assert (wait.over.service, wait.over.retry, wait.over.command) == ("trainer", 0, wait.key)
    assert waiting(Story(SHORT, {("video_tokenizer", 1): Outcome(in_work=True)}).play().state) is None


def test_a_gate_waits_for_its_evidence_within_a_limit() -> None:
    story = Story(SHORT, {("video_tokenizer", 1): Outcome(silent_monitor=True)}).play()
    wait = wait_of(story)
    assert wait.limit_sec == 7.0
    assert isinstance(wait.over, EvidenceTimedOut)
    assert wait.over.missing == ["gpu_evidence", "artifact_evidence"]
    assert waiting(story.time_passes().play().state) is None


def test_inference_and_reports_have_limits_and_an_end_has_none() -> None:
    story = Story(only("dynamics"), dead={"inference"}).play()
    assert wait_of(story).over.name == "command_timed_out"
    story = Story(SHORT, dead={"reporter"}).play()
    assert wait_of(story).key.endswith("write_reports")
    assert waiting(Story(SHORT).play().state) is None


def test_an_answer_that_comes_after_a_time_out_counts() -> None:
    story = dead_trainer().time_passes().play()
    story.outcomes = {}
    story._train(story.last_plan)
    assert story.play().status == "stage_completed"


def test_time_counts_per_wait_and_begins_when_it_is_first_seen() -> None:
    timers, wait = Timers(), wait_of(dead_trainer())
    assert timers.advance([wait], 100.0) == []
    assert timers.advance([wait], 29.0) == []
    assert timers.advance([wait], 1.0) == [(wait, 30.0)]
    assert timers.advance([], 1.0) == []
    assert timers.advance([wait], 100.0) == []


def test_a_service_that_works_on_a_command_holds_its_limit_back() -> None:
    timers, wait = Timers(), wait_of(dead_trainer())
    timers.advance([wait], 1.0)
    timers.advance([wait], 29.0)
    timers.hold_back([wait.key])
    assert timers.advance([wait], 29.0) == []
    timers.hold_back(["20261121_120000/video_tokenizer/2/0/continue"])  # another attempt's
    assert timers.advance([wait], 1.0) == [(wait, 30.0)]


def test_nothing_holds_evidence_back() -> None:
    story = Story(SHORT, {("video_tokenizer", 1): Outcome(silent_monitor=True)}).play()
    timers, wait = Timers(), wait_of(story)
    timers.advance([wait], 1.0)
    timers.hold_back([wait.key])
    assert timers.advance([wait], 7.0) == [(wait, 7.0)]
