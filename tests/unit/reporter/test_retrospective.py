"""What the retrospective says, and every report of every kind of run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from services.reporter.core.endings import endings
from services.reporter.core.material import Material
from services.reporter.core.retrospective import retrospective
from services.reporter.core.story import Outcome, tell
from services.reporter.reports import write_reports
from shared.bundle import Bundle
from shared.events import ChunkStarted, OperatorRequested, RunFinished, RunPaused, RunResumed
from tests.unit.gatekeeper.rows import TRANSCRIPTS
from tests.unit.reporter.conftest import ROLLED_BACK

RUN = "20260101_000000"
PASSED = Outcome("passed", "the inference gate passed", degraded=False)
OOM = ROLLED_BACK | {
    "reason": "oom",
    "degraded": True,
    "config_patch_applied": {"batch_size_per_gpu": 1},
    "next_target_step": 50,
    "reasons": [
        {"check": 1, "name": "chunk_end", "value": "oom", "threshold": "completed", "ok": False, "text": "x"}
    ],
}
Log = Any


def said(log: Log, outcome: Outcome = PASSED) -> str:
    story = tell(log.records)
    assert story is not None
    return retrospective(story, outcome, Material())


def test_a_failed_gate_is_a_row_with_what_failed_and_what_was_done(log: Log) -> None:
    text = said(log.begin().chunk(1, 0, 50, gate=OOM).chunk(2, 0, 50, batch_size_per_gpu=1))
    assert (
        "| dynamics | 1 | 50 | oom | chunk_end oom against completed | retune | from the beginning to 50"
        in text
    )
    assert (
        "| dynamics | 2 | `batch_size_per_gpu` | 4 | 1 | gate of attempt 1 at update 50: oom "
        "(chunk_end oom against completed) |  |" in text
    )


def test_effective_batch_is_told_from_the_beginning_and_at_each_change(log: Log) -> None:
    text = said(log.begin().chunk(1, 0, 50, gate=OOM).chunk(2, 0, 50, batch_size_per_gpu=1).chunk(3, 50, 90))
    rows = re.findall(r"^\| dynamics \| (\d) \| (\d) \| 1 \| 2 \| (\d) \| (.+) \|$", text, re.MULTILINE)
    assert rows == [("1", "4", "8", "as it began"), ("2", "1", "2", "changed"), ("3", "4", "8", "changed")]


def test_degraded_names_the_gate_that_made_it_so_and_no_later_one(log: Log) -> None:
    log.begin().chunk(1, 0, 50, gate=OOM).chunk(2, 0, 50, gate={"degraded": True}, batch_size_per_gpu=1)
    text = said(log, Outcome("passed", "x", degraded=True))
    section = text.partition("## Degraded")[2].partition("##")[0]
    assert re.findall("^- .*$", section, re.MULTILINE) == [
        "- dynamics was retuned down to batch 1 (attempt 1, oom: chunk_end oom against completed)"
    ]


def test_what_was_rolled_back_is_told_with_what_superseded_it(log: Log) -> None:
    text = said(log.begin().chunk(1, 0, 50, gate=OOM).chunk(2, 0, 50))
    assert re.search(r"\| dynamics \| 1 \| 0 to 50 \|.*\| none; superseded by attempt 2 \|", text)
    assert re.search(r"\| dynamics \| 2 \| 0 to 50 \|.*\| 0 to 50 \|", text)


def test_stages_that_do_not_fit_together_are_named(log: Log) -> None:
    text = said(log.begin().chunk(1, 0, 50))
    assert "All stages agree on what they share." in text
    text = said(log.chunk(2, 50, 90, embed_dim=64))
    assert "**Not aligned: `embed_dim`.**" in text
    assert re.search(r"\| `embed_dim` \| 128 \| 128 \| 64 \| \*\*no\*\* \|", text)


def test_the_mode_of_the_inference_test_and_each_try_are_told(log: Log) -> None:
    text = said(log.begin().chunk(1, 0, 100).inference(mode="teacher-forced"))
    assert "| mode | **teacher-forced** |" in text
    assert "| 1 | mse | 0.004 | 0.03 | 0.67 | 8 | yes | stop (passed) |" in text


def test_actions_are_split_into_now_and_next_cycle(log: Log) -> None:
    text = said(log.begin().chunk(1, 0, 100).inference(actions_in_use=2, seen_share=0.9))
    now, _, later = text.partition("## Actions")[2].partition("Next cycle:")
    assert f"1. Play it: `worldloop play {RUN}`." in now
    assert "1. Use fewer actions (`n_actions=2`): 2 of 4 codes are in use." in later
    assert "2. Record more varied frames" in later


def test_where_the_time_went_adds_up(log: Log) -> None:
    text = said(log.begin().chunk(1, 0, 100).inference())
    section = text.partition("## Where the time went")[2].partition("##")[0]
    assert "Goodput " in section
    assert sum(float(share) for share in re.findall(r"([\d.]+) %  ?\|", section)) == pytest.approx(
        100, abs=0.5
    )


def test_an_interrupted_launch_is_told(log: Log) -> None:
    log.begin().chunk(1, 0, 50)
    first = next(record for record in log.records if isinstance(record.message, ChunkStarted))
    again = first.message.model_copy(update={"launch": 2})
    log.records.insert(log.records.index(first) + 1, type(first)(99, first.time, "t", again))
    assert "dynamics attempt 1: interrupted and launched again, 1 time" in said(log)


# --- a run that has not ended, and one that ended twice ---------------------------------------------------


def test_a_run_that_goes_on_says_where_it_is(log: Log) -> None:
    log.begin().chunk(1, 0, 50)
    start = log.records[1].message.model_copy(update={"attempt": 2})
    log.add(start, "/worldloop/trainer")
    ((story, outcome),) = endings(log.records)
    assert (outcome.status, outcome.over) == ("running", False)
    text = retrospective(story, outcome, Material())
    assert "The run has not ended: when the last event came, 2026-01-01 00:04:00 UTC, it was running" in text
    assert "dynamics attempt 2 was training towards update 50" in text
    assert f"See whether it goes on: `worldloop status {RUN}`." in text


def test_a_paused_run_says_why_and_how_to_go_on(log: Log) -> None:
    log.begin().chunk(1, 0, 50)
    log.add(RunPaused(run_id=RUN, by="operator", reason="the operator asked"))
    ((story, outcome),) = endings(log.records)
    assert outcome == Outcome("paused", "the operator asked", degraded=False)
    assert f"`worldloop resume {RUN}`" in retrospective(story, outcome, Material())


def test_a_run_that_was_stopped_and_resumed_has_two_endings(log: Log) -> None:
    log.begin().chunk(1, 0, 50)
    log.add(RunFinished(run_id=RUN, status="stopped", degraded=False, reason="asked"))
    assert [outcome.status for _, outcome in endings(log.records)] == ["stopped"]
    log.add(OperatorRequested(run_id=RUN, request="resume_run", request_id="1"))
    log.add(RunResumed(run_id=RUN, by="operator", reason="asked"))
    assert [outcome.status for _, outcome in endings(log.records)] == ["stopped", "running"]
    log.chunk(2, 50, 100).inference()
    log.add(RunFinished(run_id=RUN, status="passed", degraded=False, reason="good", ordinal=2))
    (first, _), (second, outcome) = endings(log.records)
    assert outcome.status == "passed"
    assert first.stamp < second.stamp
    assert "the run had ended, stopped: asked" in retrospective(second, outcome, Material())


# --- every kind of run, played by the real gatekeeper -----------------------------------------------------


@pytest.mark.parametrize("play", [each.play for each in TRANSCRIPTS], ids=[each.name for each in TRANSCRIPTS])
def test_every_run_has_all_its_reports_and_no_link_leads_nowhere(
    play: Callable[[], Any], tmp_path: Path
) -> None:
    for story, outcome in endings(play().log):
        bundle = Bundle(tmp_path, story.spec.run_name)
        found = list(
            write_reports(bundle, story, outcome, ["loop", "retrospective", "inference"], again=True)
        )
        assert [each.error for each in found] == [None] * 3
        for each in found:
            text = (tmp_path / str(each.path)).read_text()
            assert text.splitlines()[2].startswith("**What happened.** The run ")
            for target in re.findall(r"\]\((\.\./[^)]+)\)", text):
                assert (bundle.reports / unquote(target)).exists(), target
