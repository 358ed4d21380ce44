"""The view that people get: a fold of the run's events."""

from __future__ import annotations

import io
from datetime import UTC, datetime

from rich.console import Console

from services.commands import render
from services.commands.view import RunView, fold, fold_all
from shared.bus.protocol import Recorded
from shared.events import Event, InferenceDone, Message, RunResumed, TrainProgress

RUN = "20260102_030405"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def recorded(*messages: Message) -> list[Recorded]:
    return [Recorded(number, NOW, "/worldloop/test", message) for number, message in enumerate(messages, 1)]


def progress(stage: str = "video_tokenizer", attempt: int = 1, step: int = 120) -> TrainProgress:
    return TrainProgress.model_validate(
        {
            "run_id": RUN,
            "stage": stage,
            "attempt": attempt,
            "step": step,
            "target_step": 300,
            "stage_target": 900,
            "loss": 0.25,
            "learning_rate": 1e-3,
            "frames_per_sec": 64.0,
            "eta_sec": 3700.0,
        }
    )


def shown(view: RunView) -> str:
    console = Console(width=150, record=True, file=io.StringIO())
    console.print(render.panel(view))
    return console.export_text()


def test_while_a_chunk_trains_the_view_says_where_it_is(story: list[Event]) -> None:
    text = shown(fold_all(RUN, recorded(*story[:3], progress())))
    for part in (
        "running",
        "training 0 to 300",
        "attempt 1, launch 1, 2 x cpu",
        "step 120 of 900, chunk to 300",
        "loss 0.25000",
    ):
        assert part in text
    for part in ("lr 1.00e-03", "64 frames/s", "1 h 01 min"):
        assert part in text


def test_progress_of_another_attempt_is_not_shown(story: list[Event]) -> None:
    assert fold_all(RUN, recorded(*story[:3], progress(attempt=2))).progress is None


def test_a_gate_shows_decision_reason_patch_and_budget(story: list[Event]) -> None:
    view = fold_all(RUN, recorded(*story[:5]))
    text = shown(view)
    assert "final loss 0.5 is high; now learning_rate=0.0015" in text
    assert "1/5" in text
    assert view.phase == "decided retune"


def test_the_end_says_how_and_where(story: list[Event], spec: object) -> None:
    view = fold_all(RUN, recorded(*story))
    assert view.ended
    assert render.exit_code(view) == 1
    assert render.ending(view)[0] == f"Run {RUN}: failed - out of budget"
    assert f"Bundle: {view.bundle}" in render.ending(view)


def test_an_operator_revives_an_ended_run(story: list[Event]) -> None:
    view = fold_all(RUN, recorded(*story, RunResumed(run_id=RUN, by="operator", reason="again")))
    assert (view.status, view.ended) == ("running", False)


def test_an_event_that_comes_twice_counts_once(story: list[Event]) -> None:
    once = fold_all(RUN, recorded(*story))
    assert fold_all(RUN, recorded(*story, *story)).decisions == once.decisions


def test_events_of_other_runs_change_nothing(story: list[Event]) -> None:
    view = RunView("20260102_030406")
    assert fold(view, recorded(story[0])[0]) == view


def test_the_number_that_gated_the_inference_test_is_said_with_its_name(story: list[Event]) -> None:
    done = InferenceDone(run_id=RUN, inference_try=1, ok=True, gated_by="mse_standard", mse_standard=0.0126)
    view = fold_all(RUN, recorded(story[0], done, story[-1]))
    assert any("inference  mse_standard 0.0126" in text for text in render.ending(view))


def test_the_picture_of_the_inference_test_is_among_what_to_open(story: list[Event]) -> None:
    done = InferenceDone(
        run_id=RUN, inference_try=1, ok=True, mse=0.01, skill=0.7, picture="inference_results/a.png"
    )
    view = fold_all(RUN, recorded(story[0], done, story[-1]))
    assert any(text.endswith("inference_results/a.png") for text in render.ending(view))
    assert any("mse 0.01" in text and "skill 0.7" in text for text in render.ending(view))


def test_every_event_of_a_run_has_its_line(story: list[Event]) -> None:
    assert all(render.line(one) for one in recorded(*story))


def test_durations_read_naturally() -> None:
    assert [render.duration(s) for s in (0, 61, 3700, 200_000)] == [
        "0 min 00 s",
        "1 min 01 s",
        "1 h 01 min",
        "2.3 d",
    ]
