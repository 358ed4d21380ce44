"""What reports say first of a run that ended without an inference test."""

from __future__ import annotations

from typing import Any

import pytest

from services.reporter.core.loop_report import loop_report
from services.reporter.core.material import Material
from services.reporter.core.story import Outcome, Story, tell
from shared.events import CommandTimedOut
from tests.unit.reporter.conftest import RUN, Log

FAILED = Outcome("failed", "dynamics used up its retries", degraded=False)
STOPPED: dict[str, Any] = {
    "decision": "stop",
    "verdict": "watch",
    "reason": "stopped",
    "accepted_checkpoint": None,
    "resume_from": "results/x/dynamics/checkpoints/dynamics_step_19",
    "resume_step": 20,
    "reasons": [
        {
            "check": 1,
            "name": "chunk_end",
            "value": "stopped",
            "threshold": "completed",
            "ok": False,
            "text": "at 20",
        }
    ],
}


def story(log: Log) -> Story:
    found = tell(log.records)
    assert found is not None
    return found


def test_a_stop_that_was_asked_for_is_no_failed_check_and_its_checkpoint_is_named(log: Log) -> None:
    log.begin().chunk(1, 0, 20, gate=STOPPED, rows=False)
    text = loop_report(story(log), Outcome("stopped", "the operator asked", degraded=False), Material())
    lines = text.splitlines()
    assert lines[2].startswith(
        "**What happened.** The run was stopped: the operator asked. "
        "It trained dynamics to 20 updates that no gate accepted"
    )
    assert "no gate accepted a checkpoint. The newest one is `results/x/dynamics/checkpoints/" in lines[4]
    assert "**failed**" not in text
    assert "  - not judged: at 20" in text
    assert "  - updates that count now: 0 to 20" in text


def test_checkpoints_that_were_given_are_not_said_to_have_been_accepted(log: Log) -> None:
    given = {"video_tokenizer": "given/video_tokenizer_step_9"}
    text = loop_report(story(log.begin(checkpoints=given).chunk(1, 0, 50)), FAILED, Material())
    assert "video_tokenizer `given/video_tokenizer_step_9` (given), dynamics `results/" in text
    assert "dynamics_step_49` (accepted by its gate). How well they predict was not measured." in text


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        (f"trainer did not answer {RUN}/dynamics/1/0/start, sent 4 times", "Find out why the trainer"),
        ("the trainer did not begin dynamics attempt 1, asked 4 times", "Find out why the trainer"),
        (
            "required reports could not be written: disk full",
            "Mend what ended it: required reports could not",
        ),
    ],
)
def test_an_end_that_no_gate_decided_says_what_to_mend(log: Log, reason: str, advice: str) -> None:
    log.begin()
    asked = f"{RUN}/dynamics/1/0/start"
    log.add(CommandTimedOut(run_id=RUN, command=asked, service="trainer", waited_sec=120, retry=0))
    text = loop_report(story(log), Outcome("failed", reason, degraded=False), Material())
    assert text.splitlines()[6].startswith(f"**What to do next.** {advice}")
    assert "- the trainer did not begin dynamics attempt 1 within 120 s (asked once)" in text
    assert "Nothing was measured, so none is known." in text
