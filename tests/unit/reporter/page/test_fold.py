"""The page folded from runs that the real gatekeeper has played."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.reporter.core.lineage import judged, lineage
from services.reporter.core.page.fold import PageFold, fold_all
from services.reporter.core.page.model import ROWS, Note, Page, StageRow
from services.reporter.core.page.table import Table
from services.reporter.core.story import tell
from services.reporter.page.lines import plain
from shared.bus.protocol import Backlog, Recorded
from shared.events import STAGES, GpuSample, Heartbeat, Telemetry
from tests.messages import progress
from tests.unit.gatekeeper.story import COLLAPSED, DIVERGING, RUN_ID, Outcome, Story, only

BEGAN = datetime(2026, 11, 21, 12, tzinfo=UTC)


def timed(story: Story) -> list[Recorded]:
    """The story's events, ten seconds apart."""
    return [
        replace(record, time=BEGAN + timedelta(seconds=10 * place)) for place, record in enumerate(story.log)
    ]


def page_of(records: Sequence[Recorded]) -> Page:
    return fold_all(RUN_ID, records).page(records[-1].time.timestamp())


def row(page: Page, stage: str) -> StageRow:
    return next(row for row in page.stages if row.stage == stage)


def telemetry(message: Telemetry, at: datetime) -> Recorded:
    return Recorded(0, at, "test", message)


def applied(document: dict[str, Any], patch: dict[str, Any]) -> None:
    """What a page does with a patch."""
    for name, value in patch.items():
        if name in ROWS:
            rows = {each["id"]: each for each in document[name]} | {each["id"]: each for each in value}
            document[name] = list(rows.values())
        else:
            document[name] = value


outcomes = st.sampled_from(
    [
        Outcome(),
        DIVERGING,
        COLLAPSED,
        Outcome(reason="oom"),
        Outcome(reason="non_finite"),
        Outcome(checkpoint="invalid"),
        Outcome(checkpoint="all invalid"),
        Outcome(good_picture=False),
        Outcome(history=False),
    ]
)


def stories() -> st.SearchStrategy[Story]:
    plans = st.dictionaries(
        st.tuples(st.sampled_from(STAGES), st.integers(1, 6)), outcomes, min_size=1, max_size=8
    )
    tests = st.lists(st.sampled_from([{"mse": 0.9}, {"mse": 0.001}]), max_size=3)
    return st.builds(lambda plan, tested: Story(outcomes=plan, tests=tested).play(), plans, tests)


@given(story=stories(), data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_patched_page_shows_what_a_loaded_one_shows(story: Story, data: st.DataObject) -> None:
    records = timed(story)
    fold = PageFold(RUN_ID)
    document = fold.page(0.0).model_dump(mode="json")
    for record in records:
        fold.take(record)
        if data.draw(st.booleans()):
            applied(document, fold.patch(record.time.timestamp()))
    now = records[-1].time.timestamp()
    applied(document, fold.patch(now))
    assert document == page_of(records).model_dump(mode="json")


@given(story=stories())
@settings(max_examples=25, deadline=None)
def test_what_was_rolled_back_is_what_the_reports_say(story: Story) -> None:
    told = tell(story.log)
    assert told is not None
    fold = fold_all(RUN_ID, story.log)
    for stage in STAGES:
        assert lineage(judged((record.message for record in story.log), stage)) == lineage(told.of(stage))
        counting = {piece.attempt: piece.end for piece in lineage(told.of(stage))}
        for attempt in told.of(stage):
            done, gate = attempt.done, attempt.gate
            if done is None or gate is None or done.history is None:
                continue
            end = counting.get(done.attempt, done.start_step)
            expected = None if end == done.end_step else end
            if done.end_step > done.start_step:
                assert fold.superseded(stage)[done.attempt] == expected


@given(story=stories(), jitter=st.lists(st.floats(-30, 30), min_size=1, max_size=20))
@settings(max_examples=25, deadline=None)
def test_the_kinds_of_time_add_up_and_none_is_negative(story: Story, jitter: list[float]) -> None:
    records = timed(story)
    records = [
        replace(record, time=record.time + timedelta(seconds=jitter[place % len(jitter)]))
        for place, record in enumerate(records)
    ]
    fold, began, newest, ended = PageFold(RUN_ID), None, 0.0, False
    for record in records:
        fold.take(record)
        newest = max(newest, record.time.timestamp()) if began is not None else record.time.timestamp()
        if began is None and record.message.name == "run_started":
            began = newest
        ended = record.message.name == "run_finished"
        spent = fold.page(newest + 5).goodput.spent
        assert all(each.seconds >= 0 for each in spent)
        if began is not None:
            whole = newest - began + (0 if ended else 5)
            assert sum(each.seconds for each in spent) == pytest.approx(whole, abs=1e-3)


def test_a_message_seen_twice_or_of_another_run_changes_nothing() -> None:
    records = timed(Story().play())
    fold = fold_all(RUN_ID, records)
    fold.patch(1.0)
    for record in records:
        fold.take(record)
        other = record.message.model_copy(update={"run_id": "20200101_000000"})
        fold.take(replace(record, message=other))
    assert set(fold.patch(1.0)) == {"now"}


def test_a_message_of_a_long_run_costs_a_patch_of_a_few_rows() -> None:
    records = timed(Story().play())
    fold = PageFold(RUN_ID)
    for record in records:
        fold.take(record)
        patch = fold.patch(0.0)
        rows = [len(patch.get(name, [])) for name in ROWS]
        assert sum(rows) <= 12
    assert max(len(fold.page(0.0).gates), 1) > 5


def test_progress_moves_the_stage_and_its_eta() -> None:
    story = Story(outcomes={("video_tokenizer", 1): Outcome(in_work=True)}).play()
    records = timed(story)
    fold = fold_all(RUN_ID, records)
    now = records[-1].time + timedelta(seconds=4)
    message = progress(
        RUN_ID, stage="video_tokenizer", step=7, target_step=10, stage_target=20, loss=0.5, eta_sec=30.0
    )
    fold.take(telemetry(message, now))
    found = row(fold.page(now.timestamp()), "video_tokenizer")
    assert (found.state, found.step, found.loss) == ("training", 7, 0.5)
    assert found.eta == now.timestamp() + 30
    late = message.model_copy(update={"attempt": 9, "step": 1})
    fold.take(telemetry(late, now))
    assert row(fold.page(now.timestamp()), "video_tokenizer").step == 7


@pytest.mark.parametrize("eta_sec", [1e11, 1.7e308])
def test_an_end_in_thousands_of_years_is_not_known(eta_sec: float) -> None:
    records = timed(Story(outcomes={("video_tokenizer", 1): Outcome(in_work=True)}).play())
    fold = fold_all(RUN_ID, records)
    fold.take(telemetry(progress(RUN_ID, stage="video_tokenizer", eta_sec=eta_sec), records[-1].time))
    page = fold.page(records[-1].time.timestamp())
    assert row(page, "video_tokenizer").step == 1
    assert (row(page, "video_tokenizer").eta, page.eta) == (None, None)


def test_what_is_not_finite_is_null_for_browsers() -> None:
    assert plain({"loss": [math.inf, -math.inf, math.nan, 0.5]}) == '{"loss":[null,null,null,0.5]}'


def test_a_healthy_run_says_so_everywhere() -> None:
    page = page_of(timed(Story().play()))
    assert page.run.status == "passed"
    assert page.actions == []
    assert {each.stage: each.state for each in page.stages} == dict.fromkeys(
        (*STAGES, "inference"), "complete"
    )
    assert page.inference is not None
    assert page.inference.passed
    assert not any(gate.superseded for gate in page.gates)
    assert page.gates[0].why.startswith("All ")
    assert page.goodput.fraction is not None


def test_a_failed_gate_says_why_and_what_changes() -> None:
    page = page_of(timed(Story(outcomes={("dynamics", 1): DIVERGING}).play()))
    gate = next(gate for gate in page.gates if gate.id == "dynamics/1")
    assert gate.superseded
    assert not gate.accepted
    assert "begins again" in gate.why or "Trained again" in gate.why
    assert any(change.startswith("learning_rate 0.001 -> ") for change in row(page, "dynamics").climbed)
    again = next(attempt for attempt in page.attempts if attempt.id == "dynamics/2")
    assert again.parent is None  # fresh: no gate was accepted before


def test_an_attempt_names_the_one_that_it_goes_on_from() -> None:
    page = page_of(timed(Story().play()))
    parents = {attempt.id: attempt.parent for attempt in page.attempts}
    assert parents["dynamics/2"] == "dynamics/1"


def test_sheets_that_were_rolled_back_are_where_the_trainer_has_put_them() -> None:
    page = page_of(timed(Story(outcomes={("dynamics", 1): DIVERGING}).play()))
    moved = [sheet for sheet in page.sheets if sheet.attempt == 1 and sheet.stage == "dynamics"]
    assert all(sheet.superseded for sheet in moved)
    assert all("/superseded/2/visualizations/" in sheet.path for sheet in moved if "/dynamics/" in sheet.path)


def test_what_may_be_asked_for_follows_what_was() -> None:
    story = Story(outcomes={("video_tokenizer", 1): Outcome(in_work=True)}).play()
    assert page_of(timed(story)).actions == ["pause", "stop", "retune"]
    page = page_of(timed(story.pause()))
    assert page.actions == ["resume", "stop", "retune"]
    assert page.requested == ["pause at the next gate"]
    page = page_of(timed(story.stop()))
    assert "stop" not in page.actions


def test_a_stopped_run_can_be_resumed() -> None:
    story = Story(outcomes={("video_tokenizer", 1): Outcome(in_work=True)}).play()
    story.stop().play()
    page = page_of(timed(story))
    assert page.run.status == "stopped"
    assert page.actions == ["resume"]
    assert page.requested == []


def test_a_run_that_ends_at_a_failed_gate_shows_what_failed_what_is_left_and_what_can_be_done() -> None:
    story = Story(outcomes={("dynamics", n): DIVERGING for n in range(1, 10)}, spec=only("dynamics")).play()
    page = page_of(timed(story))
    assert (page.run.status, page.phase, page.actions) == ("failed", "Ended: failed", ["resume"])
    assert page.run.ended is not None
    assert "budget spent" in page.reason
    last, trained = page.gates[-1], page.attempts[-1]
    assert (last.decision, last.accepted, last.superseded) == ("stop", False, True)
    assert last.why.endswith("The budget is spent, so the run stops.")
    assert any(not value.ok for value in last.values)
    assert (trained.decision, trained.superseded_from, trained.end) == ("stop", last.resume_step, "completed")
    stage = row(page, "dynamics")
    assert (stage.state, stage.step, stage.accepted_step, stage.best) == ("blocked", 0, 0, None)
    assert stage.gates == len(page.gates)
    assert row(page, "inference").state == "waiting"
    levels = {note.text.partition(":")[0]: note.level for note in page.notes}
    assert levels["dynamics is blocked"] == levels["The run ended as failed"] == "bad"
    spent = {each.name: each.seconds for each in page.goodput.spent}
    assert spent["training"] == 0  # nothing of it counts
    assert spent["redone"] > 0


def test_rows_that_changed_are_handed_out_once_and_the_same_again_is_no_change() -> None:
    table: Table[Note] = Table()
    first, second = (Note(id=name, time=1.0, level="info", text=name) for name in "ab")
    table.put(first)
    table.put(second)
    assert table.take_changes() == [first, second]
    assert table.take_changes() == []
    table.put(first.model_copy())
    table.update("b", text="b")
    assert table.take_changes() == []
    table.update("b", text="c")
    table.update("b", level="bad")
    assert [(each.id, each.text, each.level) for each in table.take_changes()] == [("b", "c", "bad")]
    assert [each.id for each in table.rows] == ["a", "b"]


def test_who_gets_the_whole_page_gets_no_change_that_is_in_it_but_each_that_comes_after() -> None:
    records = timed(Story().play())
    half = len(records) // 2
    fold = fold_all(RUN_ID, records[:half])
    document = fold.page(0.0).model_dump(mode="json")
    fold.forget_changes()
    assert set(fold.patch(0.0)) == {"now", "goodput"}
    for record in records[half:]:
        fold.take(record)
    applied(document, fold.patch(records[-1].time.timestamp()))
    assert document == page_of(records).model_dump(mode="json")


def test_a_run_that_nothing_is_known_of_has_a_page() -> None:
    page = PageFold(RUN_ID).page(5.0)
    assert (page.run.status, page.stages, page.actions) == ("queued", [], [])


def test_given_checkpoints_are_no_waiting_stages() -> None:
    page = page_of(timed(Story(spec=only("dynamics")).play()))
    assert row(page, "video_tokenizer").state == "given"
    assert row(page, "dynamics").state == "complete"


def test_services_and_gpus_are_seen_by_their_telemetry() -> None:
    fold = PageFold(RUN_ID)
    beat = Heartbeat(run_id="idle", service="trainer", pid=7, host="h", working_on=[])
    fold.take(telemetry(beat, BEGAN))
    for second in range(130):
        sample = GpuSample(
            run_id=RUN_ID, index=0, utilization=second, memory_bytes=1, memory_total_bytes=2, pids=[]
        )
        fold.take(telemetry(sample, BEGAN + timedelta(seconds=second)))
    fold.backlog([Backlog("trainer", waiting=2, unsettled=1, dead={RUN_ID: 3, "20200101_000000": 5})])
    page = fold.page(0.0)
    trainer = next(each for each in page.services if each.service == "trainer")
    assert (trainer.pid, trainer.waiting, trainer.unsettled, trainer.dead) == (7, 2, 1, 3)
    assert len(page.gpus[0].recent) == 120
    fold.backlog(None)
    assert next(each for each in fold.page(0.0).services if each.service == "trainer").dead is None
