"""What is said of a run in lines: one per event, and the last words."""

from __future__ import annotations

from datetime import UTC, datetime

from services.commands.watching import render
from services.reporter.core.page.fold import fold_all
from shared.bus.protocol import Recorded
from shared.events import Event, InferenceDone, Message
from tests.messages import progress

RUN = "20260102_030405"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def recorded(*messages: Message) -> list[Recorded]:
    return [Recorded(number, NOW, "/worldloop/test", message) for number, message in enumerate(messages, 1)]


def last_words(*messages: Message) -> list[str]:
    return render.ending(fold_all(RUN, recorded(*messages)).page(NOW.timestamp()))


def test_every_event_of_a_run_has_its_line(story: list[Event]) -> None:
    assert all(render.line(one) for one in recorded(*story))


def test_a_gate_says_decision_reason_patch_and_budget(story: list[Event]) -> None:
    told = render.line(recorded(story[4])[0])
    assert told is not None
    assert "retune (retune) - final loss 0.5 is high; now learning_rate=0.0015; retries 1/5" in told


def test_progress_says_where_how_fast_and_until_when() -> None:
    told = progress(
        RUN, stage="video_tokenizer", step=120, target_step=300, stage_target=900, loss=0.25,
        frames_per_sec=64.0, eta_sec=3700.0,
    )  # fmt: skip
    text = render.progress_line(told)
    for part in ("video_tokenizer 120/900", "loss 0.25000", "lr 1.00e-03", "64 frames/s", "1 h 01 min"):
        assert part in text


def test_the_end_says_how_and_where(story: list[Event]) -> None:
    fold = fold_all(RUN, recorded(*story))
    assert render.exit_code(fold.run) == 1
    assert last_words(*story)[0] == f"Run {RUN}: failed - out of budget"
    assert f"Bundle: {fold.page(0).bundle}" in last_words(*story)


def test_a_run_that_goes_on_has_done_nothing_wrong(story: list[Event]) -> None:
    assert render.exit_code(fold_all(RUN, recorded(*story[:-1])).run) == 0


def test_the_number_that_gated_the_inference_test_is_said_with_its_name(story: list[Event]) -> None:
    done = InferenceDone(run_id=RUN, inference_try=1, ok=True, gated_by="mse_standard", mse_standard=0.0126)
    assert any("inference  mse_standard 0.0126" in text for text in last_words(story[0], done, story[-1]))


def test_the_picture_of_the_inference_test_is_among_what_to_open(story: list[Event]) -> None:
    done = InferenceDone(
        run_id=RUN, inference_try=1, ok=True, mse=0.01, skill=0.7, picture="inference_results/a.png"
    )
    told = last_words(story[0], done, story[-1])
    assert any(text.endswith("inference_results/a.png") for text in told)
    assert any("mse 0.01" in text and "skill 0.7" in text for text in told)


def test_an_inference_test_that_broke_says_why(story: list[Event]) -> None:
    done = InferenceDone(run_id=RUN, inference_try=1, ok=False, problem="no frames")
    assert "inference test failed: no frames" in last_words(story[0], done, story[-1])
