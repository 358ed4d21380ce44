"""The rows of the rules, each as a short run. Read them as `docs/decisions.md` and its transcripts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from shared.events import LossLevels, Stage
from tests.unit.gatekeeper.story import COLLAPSED, Outcome, Story, only
from tests.unit.gatekeeper.transcripts import Transcript

FADED = Outcome(good_picture=False)
HOT = Outcome(loss=7.0, rise=0.5)
RISING = Outcome(rise=0.5)
OOM = Outcome(reason="oom")
ON_GPUS = Outcome(device="cuda", dual_gpu_ok=True)
IN_WORK = Outcome(in_work=True)
SILENT = Outcome(silent_monitor=True)
DEAD = Outcome(dead_trainer=True)


def run(stage: Stage, *outcomes: Outcome, tests: list[dict[str, Any]] | None = None, **fields: Any) -> Story:
    """A stage's run; its chunks go as the outcomes say, then healthily."""
    config = fields.pop("config", {})
    if updates := fields.pop("updates", None):
        config = {**config, stage: {**config.get(stage, {}), "n_updates": updates}}
    spec = only(stage, config=config, **fields)
    chunks = {(stage, number): how for number, how in enumerate(outcomes, 1)}
    return Story(spec, chunks, tests or [])  # type: ignore[arg-type]


def levels(last: float, *, first: float = 2.0, lowest: float = 1.0, noise: float = 0.01) -> Outcome:
    return Outcome(measured={"levels": LossLevels(first=first, lowest=lowest, last=last, noise=noise)})


def _evidence_comes_late() -> Story:
    story = run("video_tokenizer", SILENT).play().time_passes().play()
    return story.measure(story.last_plan).play()


def _evidence_and_operator() -> Story:
    story = run("video_tokenizer", SILENT).play().time_passes().play().pause().play()
    return story.measure(story.last_plan).play().resume().play()


def _in_work_then(act: Callable[[Story], Story]) -> Callable[[], Story]:
    def play() -> Story:
        story = act(run("video_tokenizer", IN_WORK).play())
        return story.finish(story.last_plan).play()

    return play


def _silence(story: Story, times: int) -> Story:
    for _ in range(times):
        story.time_passes().play()
    return story


def _given() -> Story:
    given: dict[str, Any] = {
        "checkpoints": {"video_tokenizer": "given/video_tokenizer_step_4"},
        "given_steps": {"video_tokenizer": 5},
    }
    return run("video_tokenizer", Outcome(loss=1.0), **given).play()


def _broken_behind() -> Story:
    story = run("video_tokenizer", Outcome(), Outcome(), IN_WORK, updates=30).play()
    story.lineage["video_tokenizer"][20] = False
    return story.finish(story.last_plan, Outcome(checkpoint="invalid")).play()


def _report_fails() -> Story:
    story = run("video_tokenizer")
    story.failing_reports = {"loop": 1}
    return story.play()


CHECKS = "Gate checks: the first that fails decides"
WHERE = "Where it goes on"
EVIDENCE = "Absence is not failure"
BUDGETS = "Budgets"
NUMBERS = "Numeric verdicts (check 6)"
DETECTORS = "Detectors (check 6)"
LADDERS = "Ladders"
INFERENCE = "The inference gate"
OPERATOR = "The operator, and services that do not answer"

OF_CHECKOUT = {"gated_by": "mse_standard", "mse": None, "skill": None, "mse_standard": 0.012611}
"""What the test through a checkout's own script has to say: one number."""
ONE_RUNG = {"ladder_mode": "one_rung", "ladders": {"video_tokenizer": {"log_interval_floor": 1}}}
BEHIND = {"video_tokenizer": {"batch_size_per_gpu": 2}}

TRANSCRIPTS: tuple[Transcript, ...] = (
    Transcript(
        CHECKS,
        "healthy",
        "All seven checks hold: `continue`, from the checkpoint of this gate.",
        lambda: run("dynamics").play(),
    ),
    Transcript(
        CHECKS,
        "check_1_oom",
        "1: out of memory: `retune`, half the batch, on from the newest valid checkpoint.",
        lambda: run("video_tokenizer", Outcome(), OOM).play(),
    ),
    Transcript(
        CHECKS,
        "check_1_runtime_error",
        "1: a runtime error: the same as out of memory.",
        lambda: run("video_tokenizer", Outcome(), Outcome(reason="runtime_error")).play(),
    ),
    Transcript(
        CHECKS,
        "check_1_at_the_floor",
        "1: the batch goes down to its floor; there, the stage ladder, and the run is degraded.",
        lambda: run(
            "video_tokenizer",
            Outcome(),
            OOM,
            replace(OOM, end_step=15),
            policy={"min_batch_size": {"video_tokenizer": 4}},
        ).play(),
    ),
    Transcript(
        CHECKS,
        "check_1_batch_1",
        "1: retuned down to batch 1, the run is degraded.",
        lambda: run("video_tokenizer", Outcome(), OOM, config=BEHIND).play(),
    ),
    Transcript(
        CHECKS,
        "check_1_non_finite",
        "1: the loss is no number: `retune`, stage ladder, from the accepted gate.",
        lambda: run("video_tokenizer", Outcome(), Outcome(reason="non_finite")).play(),
    ),
    Transcript(
        CHECKS,
        "check_1_checkout",
        "1, 3: a checkout may be past its target by less than `log_interval`; the next chunk begins there.",
        lambda: run("video_tokenizer", Outcome(end_step=13), Outcome(end_step=23), backend="checkout").play(),
    ),
    Transcript(
        CHECKS,
        "check_2_gpu_guard",
        "2: the second GPU idled: `retune`, knobs unchanged.",
        lambda: run("video_tokenizer", ON_GPUS, replace(ON_GPUS, dual_gpu_ok=False), ON_GPUS).play(),
    ),
    Transcript(
        CHECKS,
        "check_3_invalid_checkpoint",
        "3: the newest checkpoint is not valid: the newest valid one is pinned, same target and knobs.",
        lambda: run("video_tokenizer", Outcome(), Outcome(checkpoint="invalid")).play(),
    ),
    Transcript(
        CHECKS,
        "check_3_accepted_one_lost",
        "3: the accepted gate's checkpoint is gone too: only a restart goes back beyond it.",
        _broken_behind,
    ),
    Transcript(
        CHECKS,
        "check_3_none_valid",
        "3: no checkpoint is valid: `restart_stage`, fresh, up the ladder.",
        lambda: run("video_tokenizer", Outcome(), Outcome(checkpoint="all invalid")).play(),
    ),
    Transcript(
        CHECKS,
        "check_4_stale_visualization",
        "4: no picture newer than the chunk's start: `retune`, knobs unchanged.",
        lambda: run("video_tokenizer", Outcome(), Outcome(fresh_picture=False)).play(),
    ),
    Transcript(
        CHECKS,
        "check_5_no_history",
        "5: the history is missing, or does not cover the chunk: `retune`, knobs unchanged.",
        lambda: run("video_tokenizer", Outcome(), Outcome(history=False), Outcome(covered=7)).play(),
    ),
    Transcript(
        CHECKS,
        "check_6_gate_fail",
        "6: the numbers fail: `retune`, stage ladder, from the accepted gate.",
        lambda: run("video_tokenizer", Outcome(), Outcome(loss=1.0)).play(),
    ),
    Transcript(
        CHECKS,
        "check_6_severe",
        "6 and 7: a severe collapse with lost pictures: `restart_stage` from the best checkpoint.",
        lambda: run("dynamics", Outcome(), replace(HOT, good_picture=False)).play(),
    ),
    Transcript(
        CHECKS,
        "check_6_severe_with_good_pictures",
        "6: a severe collapse whose pictures hold, where pictures bind, is a `retune`.",
        lambda: run("dynamics", Outcome(), HOT).play(),
    ),
    Transcript(
        CHECKS,
        "check_6_collapsed_actions",
        "6: entropy 0 with one action is severe, for pictures do not bind there; fewer `n_actions` are "
        "recommended for the next full cycle, never changed in this one.",
        lambda: run("latent_actions", Outcome(), COLLAPSED).play(),
    ),
    Transcript(
        CHECKS,
        "check_7_visual_collapse",
        "7: lost structure is `watch` the first time; at two gates in a row `retune`, stage ladder.",
        lambda: run("dynamics", FADED, FADED).play(),
    ),
    Transcript(
        CHECKS,
        "check_7_does_not_bind",
        "7: does not bind for other stages than dynamics, unless the policy says so.",
        lambda: run("video_tokenizer", FADED, FADED).play(),
    ),
    Transcript(
        WHERE,
        "restart_from_best_then_fresh",
        "`restart_stage`: from the best checkpoint; fresh if it was restarted from before.",
        lambda: run("latent_actions", Outcome(), COLLAPSED, COLLAPSED).play(),
    ),
    Transcript(
        WHERE,
        "given_checkpoint",
        "A given checkpoint counts as an accepted gate, and as best only when there is no other.",
        _given,
    ),
    Transcript(
        WHERE,
        "fresh_without_accepted_gate",
        "`retune` before any gate was accepted begins fresh.",
        lambda: run("video_tokenizer", Outcome(loss=1.0)).play(),
    ),
    Transcript(
        EVIDENCE,
        "evidence_comes_late",
        "Evidence that does not come pauses the run; it goes on by itself when it comes.",
        _evidence_comes_late,
    ),
    Transcript(
        EVIDENCE,
        "evidence_and_operator",
        "Unless the operator paused it.",
        _evidence_and_operator,
    ),
    Transcript(
        EVIDENCE,
        "evidence_waived",
        "An operator who goes on without it has the chunk trained again; that spends no budget.",
        lambda: run("video_tokenizer", SILENT).play().time_passes().play().resume().play(),
    ),
    Transcript(
        EVIDENCE,
        "gpus_unobserved",
        "Under enforcement, GPUs that nobody watched have the chunk trained again for free, once; then the "
        "operator is needed.",
        lambda: (
            run("video_tokenizer", *[Outcome(device="cuda", observed=False)] * 2, ON_GPUS, ON_GPUS)
            .play()
            .resume()
            .play()
        ),
    ),
    Transcript(
        EVIDENCE,
        "gpus_unobserved_not_enforced",
        "Without enforcement the gate is `watch`.",
        lambda: run(
            "video_tokenizer",
            Outcome(device="cuda", observed=False),
            ON_GPUS,
            policy={"enforce_dual_gpu_check": False},
        ).play(),
    ),
    Transcript(
        BUDGETS,
        "retries_spent",
        "`max_retries` exceeded: `stop`, `stage_blocked`, and still every report.",
        lambda: run("dynamics", Outcome(), RISING, RISING, RISING, policy={"max_retries": 2}).play(),
    ),
    Transcript(
        BUDGETS,
        "retries_reset_by_progress",
        "`retry_budget: progress`: an accepted gate beyond the highest accepted step resets the retries.",
        lambda: run("dynamics", RISING, Outcome(), RISING).play(),
    ),
    Transcript(
        BUDGETS,
        "retries_total",
        "`retry_budget: total`: not even that.",
        lambda: run("dynamics", RISING, Outcome(), RISING, policy={"retry_budget": "total"}).play(),
    ),
    Transcript(
        BUDGETS,
        "restarts_spent",
        "`max_restarts` is not reset by gates at all.",
        lambda: run(
            "latent_actions", Outcome(), COLLAPSED, Outcome(), COLLAPSED, policy={"max_restarts": 1}
        ).play(),
    ),
    Transcript(
        BUDGETS,
        "resumed_by_operator",
        "`run_resumed` by an operator starts the budgets anew, where the failed gate would have led.",
        lambda: run("dynamics", Outcome(), RISING, RISING, policy={"max_retries": 1}).play().resume().play(),
    ),
    Transcript(
        NUMBERS,
        "tokenizer_watch",
        "video_tokenizer: final loss up to 0.02, or a trend that is not down over two gates: `watch`.",
        lambda: run("video_tokenizer", Outcome(loss=0.015)).play(),
    ),
    Transcript(
        NUMBERS,
        "tokenizer_retune",
        "video_tokenizer: above that: `retune`.",
        lambda: run("video_tokenizer", Outcome(loss=0.021)).play(),
    ),
    Transcript(
        NUMBERS,
        "latent_watch",
        "latent_actions: final loss up to 0.1 with 2 actions in use: `watch`.",
        lambda: run("latent_actions", Outcome(loss=0.09), Outcome(action_entropy=0.3)).play(),
    ),
    Transcript(
        NUMBERS,
        "latent_retune",
        "latent_actions: fewer actions in use: `retune`.",
        lambda: run("latent_actions", Outcome(unique_actions=1.5)).play(),
    ),
    Transcript(
        NUMBERS,
        "dynamics_watch",
        "dynamics: rising by at most 8 % and 0.5: `watch`.",
        lambda: run("dynamics", Outcome(loss=4.0, rise=0.1)).play(),
    ),
    Transcript(
        NUMBERS,
        "dynamics_retune",
        "dynamics: rising by more: `retune`.",
        lambda: run("dynamics", Outcome(loss=4.0, rise=0.25)).play(),
    ),
    Transcript(
        NUMBERS,
        "absolute_loss_from",
        "`absolute_loss_from: 1`: before the target a high loss is not held against a young stage.",
        lambda: run(
            "video_tokenizer", Outcome(loss=0.5), Outcome(loss=0.3), policy={"absolute_loss_from": 1.0}
        ).play(),
    ),
    Transcript(
        DETECTORS,
        "detector_non_finite",
        "The newest rows have a loss that is not finite: `retune`, stage ladder, from the accepted gate.",
        lambda: run(
            "video_tokenizer", Outcome(), Outcome(measured={"non_finite_rows": 4, "non_finite_tail": 4})
        ).play(),
    ),
    Transcript(
        DETECTORS,
        "detector_loss_spike",
        "The loss left its level and did not come back: to the accepted gate, at half the rate.",
        lambda: run("video_tokenizer", Outcome(), levels(5.0, first=9.0)).play(),
    ),
    Transcript(
        DETECTORS,
        "detector_stagnation",
        "The loss is where it began: `watch`; at two gates in a row `retune`, stage ladder.",
        lambda: run("video_tokenizer", *[levels(1.99, lowest=1.98)] * 2).play(),
    ),
    Transcript(
        DETECTORS,
        "detector_throughput",
        "Updates take twice as long as they did: `watch`, never more.",
        lambda: run("video_tokenizer", Outcome(measured={"slowdown": 2.5})).play(),
    ),
    Transcript(
        LADDERS,
        "ladder_video_tokenizer",
        "video_tokenizer: rate * 0.5, accumulation + 1, `log_interval // 2` down to its floor.",
        lambda: run(
            "video_tokenizer",
            *[Outcome(loss=1.0)] * 3,
            policy={"ladders": {"video_tokenizer": {"log_interval_floor": 2}}},
        ).play(),
    ),
    Transcript(
        LADDERS,
        "ladder_latent_actions",
        "latent_actions: rate * 0.8, `log_interval // 2`, target + one chunk while the loss drops.",
        lambda: run("latent_actions", Outcome(loss=0.2)).play(),
    ),
    Transcript(
        LADDERS,
        "ladder_latent_actions_rising",
        "latent_actions: the target stays where the loss does not drop, and after `max_retries` chunks more.",
        lambda: run("latent_actions", Outcome(loss=0.2, rise=0.1)).play(),
    ),
    Transcript(
        LADDERS,
        "ladder_dynamics",
        "dynamics: rate * 0.2, accumulation - 1 (min 1), half the next chunk (not below `log_interval`); the "
        "profile's chunk is back after an accepted gate.",
        lambda: run("dynamics", Outcome(), RISING, updates=40).play(),
    ),
    Transcript(
        LADDERS,
        "ladder_one_rung",
        "`ladder_mode: one_rung`: the next rung only, from the first again after progress.",
        lambda: run("video_tokenizer", *[Outcome(loss=1.0)] * 3, policy=ONE_RUNG).play(),
    ),
    Transcript(
        INFERENCE,
        "inference_metric",
        "A failed metric: dynamics goes on from its newest valid checkpoint, target + `retry_chunk`, as a "
        "new segment with a lower peak.",
        lambda: run("dynamics", tests=[{"mse": 0.5}]).play(),
    ),
    Transcript(
        INFERENCE,
        "inference_budget_spent",
        "At most `max_inference_retries` times.",
        lambda: run("dynamics", tests=[{"mse": 0.5}] * 2, policy={"max_inference_retries": 1}).play(),
    ),
    Transcript(
        INFERENCE,
        "inference_crash",
        "A crash or a missing picture is evaluated again, not retrained.",
        lambda: run("dynamics", tests=[{"ok": False, "problem": "out of disk"}, {"picture": None}]).play(),
    ),
    Transcript(
        INFERENCE,
        "inference_crash_for_good",
        "At most `max_command_retries` times; then the run fails.",
        lambda: run(
            "dynamics",
            tests=[{"ok": False, "problem": "out of disk"}] * 2,
            policy={"max_command_retries": 1},
        ).play(),
    ),
    Transcript(
        INFERENCE,
        "inference_tokenizer_first",
        "The tokenizer's own error is above the limit: a better tokenizer is the first thing to do.",
        lambda: run(
            "dynamics",
            tests=[{"mse": 0.5, "tokenizer_mse": 0.04, "skill": -0.2}],
            policy={"max_inference_retries": 0},
        ).play(),
    ),
    Transcript(
        INFERENCE,
        "inference_checkout",
        "Through a checkout's own `run_inference.py` the number it prints gates, and no other is needed; "
        "a test of other checkpoints than the selected is none.",
        lambda: run(
            "dynamics",
            tests=[
                {**OF_CHECKOUT, "checkpoints": {"dynamics": "results/other/dynamics_step_9"}},
                {**OF_CHECKOUT, "mse_standard": 0.05},
                {**OF_CHECKOUT, "mse_standard": 0.012611},
            ],
        ).play(),
    ),
    Transcript(
        OPERATOR,
        "operator_pause",
        "A pause takes effect at the gate.",
        lambda: _in_work_then(lambda story: story.pause())().resume().play(),
    ),
    Transcript(
        OPERATOR,
        "operator_retune",
        "A retune patches the next plan, reruns nothing and spends nothing.",
        _in_work_then(lambda story: story.retune(batch_size_per_gpu=4)),
    ),
    Transcript(
        OPERATOR,
        "operator_stop",
        "A stop ends the chunk after its current update; a resume goes on to the same target.",
        lambda: run("video_tokenizer", IN_WORK).play().stop().play().resume().play(),
    ),
    Transcript(
        OPERATOR,
        "trainer_does_not_answer",
        "A command that nobody takes is sent again, `max_command_retries` times; then the run fails with its "
        "reports.",
        lambda: _silence(run("video_tokenizer", DEAD, policy={"max_command_retries": 1}).play(), 2),
    ),
    Transcript(
        OPERATOR,
        "report_fails",
        "A required report that fails makes the run a failed one, and is written again as such.",
        _report_fails,
    ),
)
