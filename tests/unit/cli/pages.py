"""A page's document and a history for tests of the terminal: dynamics was rolled back once and goes on."""

from __future__ import annotations

import math
from typing import Any

from services.reporter.core.page.model import (
    AttemptRow,
    Curve,
    GateRow,
    Goodput,
    GpuRow,
    History,
    Inference,
    Measured,
    Note,
    Page,
    ReportRow,
    RunRow,
    ServiceRow,
    SheetRow,
    Spent,
)
from shared.events import SERVICES, GateStage
from tests.page_rows import attempt_row, gate_row, stage_row

RUN = "20260102_030405"
NOW = 1767326645.0
"""2026-01-02 04:04:05 UTC."""
RESULTS = "results/2026_01_02_03_04_05_pong"


def measured(name: str, value: str, threshold: str, *, ok: bool) -> Measured:
    """A check's value."""
    return Measured(name=name, check=6, value=value, threshold=threshold, ok=ok, text=f"{name} it is")


def gate(attempt: int, step: int, **changes: Any) -> GateRow:
    """A gate of dynamics that was accepted."""
    plain: dict[str, Any] = {
        "why": f"All 2 checks hold. It goes on to update {step + 300}.",
        "values": [
            measured("chunk_end", "completed", "completed", ok=True),
            measured("final_loss", "0.41", "5", ok=True),
        ],
    }
    return gate_row("dynamics", attempt, step - 300, step, NOW - 600 + 60 * attempt, **(plain | changes))


def failed(attempt: int, step: int) -> GateRow:
    """A gate that rolled its chunk back."""
    return gate(
        attempt,
        step,
        decision="retune",
        verdict="retune",
        reason="gate_fail",
        why="Delta 0.9 is above 0.2. Trained again from update 300 with learning_rate 0.0008.",
        values=[
            measured("final_loss", "1.31", "5", ok=True),
            measured("delta", "0.9", "0.2", ok=False),
        ],
        changes={"learning_rate": 0.0008},
        accepted=False,
        superseded=True,
        retries_used=1,
    )  # fmt: skip


def attempt(number: int, start: int, end: int | None, **changes: Any) -> AttemptRow:
    """An attempt of dynamics."""
    return attempt_row("dynamics", number, start, end, NOW - 660 + 60 * number, **changes)


def page(**changes: Any) -> Page:
    """A run in its last stage."""
    services = [
        ServiceRow(
            id=name, service=name, pid=1, host="here", heard=NOW - 1 - number, waiting=0, unsettled=0, dead=0,
            working_on=["dynamics 3"] if name == "trainer" else [],
        )
        for number, name in enumerate(SERVICES)
    ]  # fmt: skip
    document: dict[str, Any] = {
        "now": NOW,
        "live": True,
        "run": RunRow(
            run_id=RUN, run_name="2026_01_02_03_04_05_pong", status="running", degraded=False,
            stage="dynamics", began=NOW - 3600, ended=None,
        ),
        "bundle": f"/data/runs/{RUN}",
        "profile": "demo",
        "dataset": "pong",
        "mode": "autoregressive",
        "phase": "Training dynamics: updates 300 to 600 of 900 (attempt 3, launch 1, 2 x cuda)",
        "reason": "",
        "requested": [],
        "actions": ["pause", "stop"],
        "knobs": {},
        "eta": NOW + 300,
        "stages": [
            stage_row("video_tokenizer"),
            stage_row("latent_actions"),
            stage_row(
                "dynamics", "training", step=450, accepted_step=300, chunk_target=600, loss=0.5321, gates=2,
                retries_used=1, eta=NOW + 300, climbed=["learning_rate 0.001 -> 0.0008 (attempt 2)"],
            ),
            stage_row("inference", "waiting", step=0, gates=0, retries_max=2),
        ],
        "gates": [gate(1, 300), failed(2, 600)],
        "attempts": [
            attempt(1, 0, 300),
            attempt(2, 300, 600, superseded_from=300, decision="retune"),
            attempt(3, 300, None, parent="dynamics/1", warm=False),
        ],
        "sheets": [
            SheetRow(
                id="dynamics/1/300", stage="dynamics", attempt=1, step=300, superseded=False,
                path=f"{RESULTS}/dynamics/visualizations/dynamics_prediction_step_299.png", verdict="",
            )
        ],
        "notes": [
            Note(id="1", time=NOW - 3600, level="info", text="The run started"),
            Note(id="2", time=NOW - 100, level="watch", text="Alert: progress silent for 90 s"),
        ],
        "gpus": [
            GpuRow(
                id=f"gpu{number}", name=f"GPU {number}", utilization=80.0 + number, memory=12 * 10**9,
                memory_total=80 * 10**9, problem=None,
                recent=[(NOW - 5 * age, 50.0 + age) for age in range(12, 0, -1)],
            )
            for number in (0, 1)
        ],
        "services": services,
        "reports": [],
        "inference": None,
        "goodput": Goodput(
            fraction=0.75,
            definition="useful over all",
            spent=[
                Spent(name="training", seconds=2700, meaning="useful"),
                Spent(name="redone", seconds=600, meaning="again"),
                Spent(name="gate", seconds=300, meaning="deciding"),
            ],
        ),
    }  # fmt: skip
    return Page.model_validate(document | changes)


def ended(**changes: Any) -> Page:
    """The run when all is done."""
    run = RunRow(
        run_id=RUN, run_name="2026_01_02_03_04_05_pong", status="passed", degraded=True,
        stage="inference", began=NOW - 3600, ended=NOW - 60,
    )  # fmt: skip
    test = Inference(
        time=NOW - 70, inference_try=1, passed=True, problem=None, mode="autoregressive", values=[],
        numbers={"mse": 0.004, "mse_low": 0.003, "mse_high": 0.005, "skill": 0.67},
        picture="inference_results/a.png", preview=None,
    )  # fmt: skip
    report = ReportRow(id="loop", kind="loop", path="docs/action/loop.md", error=None, time=NOW - 61)
    names: tuple[GateStage, ...] = ("video_tokenizer", "latent_actions", "dynamics")
    rows = [*(stage_row(name) for name in names), stage_row("inference", gates=1)]
    told = {"run": run, "inference": test, "reports": [report], "stages": rows, "eta": None}
    return page(phase="Ended: passed", reason="the inference gate passed", **(told | changes))


def history() -> History:
    """The loss of dynamics: falls, rises, and falls again from where it was rolled back to."""

    def curve(number: int, start: int, end: int, rolled_back: int | None, slope: float) -> Curve:
        steps = list(range(start + 1, end + 1, 3))
        losses: list[float | None] = [
            2 * math.exp(-300 / 150) + slope * (step - 300) if start else 2 * math.exp(-step / 150)
            for step in steps
        ]
        return Curve(
            attempt=number, superseded_from=rolled_back, step=steps, mean=losses, low=losses, high=losses
        )

    curves = [curve(1, 0, 300, None, 0), curve(2, 300, 600, 300, 0.004), curve(3, 300, 450, None, -0.001)]
    return History(
        stage="dynamics",
        column="train/loss",
        columns=["train/loss"],
        first=1,
        last=600,
        rows=750,
        curves=curves,
    )
