"""What reports and the terminal say of a run that was only observed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from services.commands.watching.render import line
from services.reporter.core.findings import residual_risks
from services.reporter.core.inference_report import inference_report
from services.reporter.core.loop_report import loop_report
from services.reporter.core.material import Material
from services.reporter.core.story import Outcome, tell
from shared.bus.protocol import Recorded
from shared.events import Withheld

COMPLETED = Outcome("stage_completed", "every stage reached its target healthy", degraded=False)
WITHHELD = Withheld(
    decision="retune",
    resume_from="results/x/dynamics/checkpoints/dynamics_step_9",
    resume_step=10,
    next_target_step=50,
    target_step=100,
    config_patch={"learning_rate": 2e-4},
    ladder=["learning_rate"],
)
FAILED: dict[str, Any] = {"verdict": "retune", "reason": "gate_fail", "observed": WITHHELD}


def test_the_loop_report_says_beside_a_gate_what_would_have_been_decided(log: Any) -> None:
    log.begin(observe=True).chunk(1, 0, 50, gate=FAILED).chunk(2, 50, 100)
    story = tell(log.records)
    assert story is not None
    text = loop_report(story, COMPLETED, Material())
    (told,) = [each for each in text.splitlines() if "observed only" in each]
    assert "would have decided retune, from [" in told
    assert "dynamics_step_9](" in told
    assert "to update 50, patch learning_rate=0.0002" in told
    assert text.splitlines()[2].startswith(
        "**What happened.** The run completed its stages: every stage reached its target. "
        "It was only observed: 1 gate failed, and no setting was changed for that."
    )
    assert "**What to do next.** Read in the training report what each failed gate" in text
    assert residual_risks(story, COMPLETED)[-1] == (
        "Observe only: decisions were recorded, not carried out; "
        "these gates failed and were passed over: dynamics attempt 1 (gate_fail)."
    )


def test_an_observed_run_without_a_failed_gate_says_that_too(log: Any) -> None:
    story = tell(log.begin(observe=True).chunk(1, 0, 100).records)
    assert story is not None
    assert residual_risks(story, COMPLETED)[-1].endswith("not carried out; no gate failed.")


def test_the_inference_report_says_what_would_have_followed(log: Any) -> None:
    log.begin(observe=True).chunk(1, 0, 100).inference()
    gate = log.records[-1].message.model_copy(update={"observed": WITHHELD})
    story = tell([*log.records[:-1], Recorded(99, datetime.now(UTC), "test", gate)])
    assert story is not None
    assert "**observed only**: would have decided retune" in inference_report(story, COMPLETED, Material())


def test_the_line_of_a_gate_says_that_it_was_only_observed(log: Any) -> None:
    log.begin(observe=True).chunk(1, 0, 50, gate=FAILED)
    told = line(log.records[-1])
    assert told is not None
    assert "gate dynamics at 50: continue (retune)" in told
    assert "observed only, would retune" in told
