"""What the reports say."""

from __future__ import annotations

import re
from typing import Any

import pytest

from services.reporter.core.actions import next_actions
from services.reporter.core.findings import residual_risks
from services.reporter.core.inference_report import inference_report
from services.reporter.core.loop_report import loop_report
from services.reporter.core.material import Material
from services.reporter.core.story import Outcome, Story, tell
from shared.events import (
    AlertRaised,
    ChunkStarted,
    OperatorRequested,
    ReportWritten,
    RunFinished,
    StageBlocked,
)
from tests.unit.reporter.conftest import ROLLED_BACK

RUN = "20260101_000000"
PASSED = Outcome("passed", "the inference gate passed", degraded=False)
FAILED = Outcome("failed", "dynamics used up its retries", degraded=False)
Log = Any


def story(log: Log) -> Story:
    found = tell(log.records)
    assert found is not None
    return found


def test_the_first_lines_tell_what_happened_what_to_trust_and_what_to_do(log: Log) -> None:
    log.begin().chunk(1, 0, 50).chunk(2, 50, 100).inference()
    lines = loop_report(story(log), PASSED, Material()).splitlines()
    assert lines[2].startswith("**What happened.** The run passed: the inference gate passed.")
    assert "dynamics to 100 updates through 2 gates (2 continue)" in lines[2]
    assert lines[4].startswith("**What to trust.** MSE 0.004 against a limit of 0.03 over 8 held-out clips")
    assert "skill 0.67" in lines[4]
    assert lines[6].startswith("**What to do next.** ")


def test_a_gate_is_one_line_with_all_it_rests_on(log: Log) -> None:
    log.begin().chunk(1, 0, 50, gate={"dual_gpu_ok": True, "config_patch_applied": {"learning_rate": 5e-4}})
    text = loop_report(story(log), FAILED, Material())
    (line,) = re.findall(r"^- attempt 1.*$", text, re.MULTILINE)
    for part in (
        "update 50 of 100",
        "decision continue (healthy)",
        "verdict continue",
        "dynamics_step_49](../../results/",
        "launcher 4001",
        "dual_gpu_ok true",
        "patch learning_rate=0.0005",
        "effective batch 8",
        "retries 0 of 5",
    ):
        assert part in line
    assert "<summary>1 check, all ok</summary>" in text
    assert "| check 6 final_loss | 0.25 | 5 | ok | the loss is low enough |" in text
    assert "[attempt_0001.csv](../../Logs/history/dynamics/attempt_0001.csv)" in text


def test_a_failed_gate_names_what_failed_and_where_it_goes_on(log: Log) -> None:
    gate = ROLLED_BACK | {
        "reason": "oom",
        "reasons": [
            {
                "check": 1,
                "name": "ended",
                "value": "oom",
                "threshold": "completed",
                "ok": False,
                "text": "no memory",
            }
        ],
    }
    log.begin().chunk(1, 0, 50, gate=gate)
    text = loop_report(story(log), FAILED, Material())
    assert "decision retune (oom)" in text
    assert "checkpoint (goes on from) none" in text
    assert "**failed**: check 1 ended, oom against completed: no memory" in text


def test_configuration_changes_are_those_of_the_plans(log: Log) -> None:
    failed = ROLLED_BACK | {
        "ladder": ["learning_rate"],
        "config_patch_applied": {"learning_rate": 5e-4},
        "reasons": [
            {"check": 6, "name": "delta", "value": 0.7, "threshold": 0.5, "ok": False, "text": "it rises"}
        ],
    }
    log.begin().chunk(1, 0, 50, gate=failed)
    log.add(
        OperatorRequested(
            run_id=RUN, request="retune_run", request_id="1", arguments={"changes": {"batch_size_per_gpu": 2}}
        )
    )
    log.chunk(2, 0, 50, batch_size_per_gpu=2, peak=5e-4)
    text = loop_report(story(log), FAILED, Material())
    because = "gate of attempt 1 at update 50: gate_fail (delta 0.7 against 0.5)"
    assert "| dynamics | 2 | `batch_size_per_gpu` | 4 | 2 | the operator asked |  |" in text
    assert "| dynamics | 2 | effective batch | 8 | 4 | follows from the batch" in text
    assert f"| dynamics | 2 | `schedule.peak` | 0.001 | 0.0005 | {because} | learning_rate |" in text


def test_without_changes_it_says_so(log: Log) -> None:
    log.begin().chunk(1, 0, 50).chunk(2, 50, 100)
    assert "None: every chunk ran with the values the run began with." in loop_report(
        story(log), FAILED, Material()
    )


def test_what_went_on_beside_the_gates_is_told(log: Log) -> None:
    log.begin()
    log.add(OperatorRequested(run_id=RUN, request="pause_run", request_id="1"))
    log.add(
        AlertRaised(
            run_id=RUN, stage="dynamics", attempt=1, channel="history", silence_sec=9, limit_sec=5,
            detail="history: silent for 9 s",
        )
    )  # fmt: skip
    log.chunk(1, 0, 50)
    text = loop_report(story(log), FAILED, Material())
    assert "operator: pause_run" in text
    assert "history: silent for 9 s" in text


def test_a_run_that_trained_nothing_still_has_its_reports(log: Log) -> None:
    log.begin(stages=())
    found = story(log)
    assert "No stage was trained." in loop_report(found, FAILED, Material())
    assert "The inference test was not run." in inference_report(found, FAILED, Material())


def test_the_inference_report_has_every_number_beside_its_baseline(log: Log) -> None:
    log.begin(config={"inference": {"max_mse": 0.05}}).chunk(1, 0, 100).inference()
    text = inference_report(story(log), PASSED, Material(others={"all events": "Logs/events.jsonl"}))
    assert "| MSE, predicted frames | 0.004 (95 %: 0.003 to 0.005) | limit 0.05 |" in text
    assert "| MSE of repeating the last frame | 0.012 |" in text
    assert "| tokenizer MSE | 0.001 | the ceiling" in text
    assert "| 2 | 0.005 | 0.014 | 0.64 | 23 |" in text
    assert "](../../inference_results/inference_results_gt_vs_pred_1.png)" in text
    assert "- all events: [Logs/events.jsonl](../../Logs/events.jsonl)" in text
    assert (
        "| dynamics | 1 | 0 to 100 of 100 | 1 (cold) | 4001 | 2 on cpu | completed | none | 30.0 s |" in text
    )


def test_the_status_names_mode_and_flag(log: Log) -> None:
    log.begin(config={"inference": {"teacher_forced": True}}).chunk(1, 0, 100).inference(
        mode="teacher-forced"
    )
    text = inference_report(story(log), Outcome("passed", "x", degraded=True), Material())
    assert "Status: **passed (teacher-forced, degraded)**" in text


def test_an_inference_test_that_died_is_reported(log: Log) -> None:
    log.begin().inference(ok=False, problem="out of memory", mse=None, held_out=False)
    text = inference_report(story(log), FAILED, Material())
    assert "The test did not come to its end: out of memory" in text
    assert residual_risks(story(log), FAILED)[0] == "The inference test gave no number: out of memory."


def test_passing_on_mse_alone_is_the_first_residual_risk(log: Log) -> None:
    log.begin().chunk(1, 0, 100).inference(skill=-0.1, held_out=False, motion_ratio=0.1)
    risks = residual_risks(story(log), PASSED)
    assert risks[0].startswith("The model passes on MSE alone: skill -0.1 is not above 0")
    assert "First residual risk: The model passes on MSE alone" in loop_report(story(log), PASSED, Material())


@pytest.mark.parametrize(
    ("numbers", "risk"),
    [
        ({"held_out": False}, "not held out"),
        ({"mode": "teacher-forced"}, "Teacher-forced"),
        ({"actions": "random"}, "Actions were random"),
        ({"gated_by": "mse_standard"}, "One clip gated"),
        ({"gated_by": "mse_standard", "mse": None, "skill": None}, "One clip gated"),
        ({"tokenizer_mse": 0.04}, "no dynamics model can pass"),
        ({"mean_frame_skill": 0.9}, "mean frame"),
        ({"motion_ratio": 0.4}, "too still"),
        ({"motion_ratio": 1.4}, "too restless"),
        ({"delta_psnr": 0.0}, "Actions steer nothing"),
        ({"actions_in_use": 1}, "Only 1 of 4"),
        ({"seen_share": 0.9}, "90 % of the target frames"),
        ({"video_problem": "no encoder"}, "no encoder"),
    ],
)
def test_every_weakness_of_the_test_is_a_residual_risk(log: Log, numbers: dict[str, Any], risk: str) -> None:
    log.begin().chunk(1, 0, 100).inference()
    assert residual_risks(story(log), PASSED) == []
    log.inference(inference_try=2, **numbers)
    (found,) = residual_risks(story(log), PASSED)
    assert risk in found


def test_a_stage_that_a_checkout_trained_in_chunks_has_a_saw_tooth_rate(log: Log) -> None:
    log.begin(backend="checkout").chunk(1, 0, 50)
    assert "saw-tooth" not in " ".join(residual_risks(story(log), FAILED))
    log.chunk(2, 50, 100)
    assert "so the rate of dynamics is a saw-tooth" in " ".join(residual_risks(story(log), FAILED))


def test_weaknesses_of_the_training_are_residual_risks_too(log: Log) -> None:
    log.begin().chunk(1, 0, 50, gate={"verdict": "watch", "reason": "watch", "degraded": True})
    again = next(r.message for r in log.records if isinstance(r.message, ChunkStarted))
    log.records.insert(
        2, log.records[1].__class__(99, log.records[1].time, "t", again.model_copy(update={"launch": 2}))
    )
    risks = " ".join(residual_risks(story(log), Outcome("passed", "x", degraded=True)))
    assert "Degraded" in risks
    assert "flagged `watch`" in risks
    assert "launched again: dynamics attempt 1" in risks


def test_a_launch_that_was_ended_to_be_counted_rightly_is_none_that_died(log: Log) -> None:
    log.begin(backend="checkout").chunk(1, 0, 50)
    first = next(r for r in log.records if isinstance(r.message, ChunkStarted))
    changes = {"launch": 2, "recount": True}
    again = first.__class__(99, first.time, "t", first.message.model_copy(update=changes))
    log.records.insert(log.records.index(first) + 1, again)
    assert "launched again" not in " ".join(residual_risks(story(log), FAILED))


def test_a_tokenizer_above_the_limit_is_the_first_next_action(log: Log) -> None:
    log.begin().chunk(1, 0, 100, gate={"recommendations": ["fewer actions"]}).inference(
        tokenizer_mse=0.04, mse=0.05
    )
    actions = next_actions(story(log), FAILED)
    assert actions[0] == "Train a better tokenizer first, then latent actions and dynamics again."
    assert "fewer actions" in actions


def test_a_blocked_stage_and_a_stopped_run_say_how_to_go_on(log: Log) -> None:
    log.begin().chunk(1, 0, 50)
    gate = {"decision": "stop", "verdict": "retune", "reason": "oom", "accepted_checkpoint": None}
    log.chunk(2, 50, 100, gate=gate)
    log.add(StageBlocked(run_id=RUN, stage="dynamics", blocking_factors=["loss rises"], best_checkpoint=None))
    assert next_actions(story(log), FAILED)[0].startswith("dynamics does not fit into memory")
    assert "What ended it was dynamics attempt 2: oom." in loop_report(story(log), FAILED, Material())
    stopped = next_actions(story(log), Outcome("stopped", "asked", degraded=False))
    assert f"Go on where it stopped: `worldloop train --resume {RUN}`." in stopped


def test_the_report_is_the_same_when_it_is_written_again_later(log: Log) -> None:
    log.begin().chunk(1, 0, 100).inference()
    first, stamp = inference_report(story(log), PASSED, Material()), story(log).stamp
    log.add(ReportWritten(run_id=RUN, report="loop", path=None, ok=False), "/worldloop/reporter")
    log.add(AlertRaised(run_id=RUN, channel="x", silence_sec=1, limit_sec=1), "/worldloop/monitor")
    log.add(RunFinished(run_id=RUN, status="passed", degraded=False, reason="x"))
    assert inference_report(story(log), PASSED, Material()) == first
    assert story(log).stamp == stamp == "2026_01_01_00_05_00"


def test_an_event_that_was_delivered_twice_counts_once(log: Log) -> None:
    log.begin().chunk(1, 0, 100).inference()
    once = inference_report(story(log), PASSED, Material())
    log.records.append(log.records[-2])
    log.records.append(log.records[-2])
    assert inference_report(story(log), PASSED, Material()).count("### Try 1") == once.count("### Try 1")


def test_a_run_of_hundreds_of_chunks_shows_what_was_not_as_expected_and_folds_the_rest(log: Log) -> None:
    log.begin()
    for attempt in range(1, 41):
        failed = {"verdict": "watch", "reason": "watch"} if attempt == 12 else None
        log.chunk(attempt, attempt, attempt + 1, rows=False, gate=failed)
    text = loop_report(story(log), PASSED, Material())
    folds = re.findall("<summary>(attempts .*)</summary>", text)
    assert folds == [
        "attempts 1 to 11: 11 gates, each continue (healthy)",
        "attempts 13 to 40: 28 gates, each continue (healthy)",
    ]
    assert "</details>\n\n- attempt 12, " in text
    assert len(re.findall("^- attempt", text, re.MULTILINE)) == 40
