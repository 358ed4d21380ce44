"""Documents of the live page made by hand: a run amid dynamics, one that passed, one with 1,000 gates."""

from __future__ import annotations

import math
import random
from typing import Any

from services.reporter.core.page.model import (
    AttemptRow,
    Curve,
    GateRow,
    Goodput,
    GpuRow,
    History,
    Inference,
    Link,
    Measured,
    Note,
    Page,
    ReportRow,
    RunRow,
    ServiceRow,
    SheetRow,
    Spent,
    StageRow,
)
from shared.events import SERVICES, STAGES, Decision, GateStage, Stage, Verdict
from tests.page_rows import attempt_row, gate_row, stage_row

RUN = "20261121_021416"
NAME = "2026_11_21_02_14_16_sonic"
NOW = 1795248061.0
HOSTILE = "<img src=x onerror='window.owned = true'><script>window.owned = true</script>&amp;\u202e"
"""A text that a page which writes HTML would run."""

LADDER = {
    "video_tokenizer": [
        "learning_rate * 0.5",
        "gradient_accumulation_steps + 1",
        "log_interval // 2, floor 500",
    ],
    "latent_actions": ["learning_rate * 0.8", "log_interval // 2, floor 250"],
    "dynamics": [
        "learning_rate * 0.2",
        "gradient_accumulation_steps - 1, min 1",
        "log_interval // 2, floor 500",
        "halve the next chunk",
    ],
}
MEANINGS = {
    "training": "updates that count",
    "redone": "updates that were rolled back and done again",
    "gate": "evidence and decision",
    "checkpoint": "writing and validating checkpoints",
    "starting": "processes, data and compilation",
    "paused": "waiting for an operator",
    "waiting": "waiting for services and relaunches",
    "inference": "the inference test",
    "reports": "writing the reports",
}


def link(stage: GateStage, step: int) -> Link:
    return Link(
        text=f"{stage}_step_{step - 1}", path=f"results/{NAME}/{stage}/checkpoints/{stage}_step_{step - 1}"
    )


def values(stage: GateStage, step: int, failing: bool, spread: float = 0.0) -> list[Measured]:
    """The values of a gate: a failing one fails by its loss that rose."""
    late = 0.61 + spread if failing else 0.44 - spread
    return [
        _value(
            "chunk_end",
            1,
            f"completed at {step}",
            f"completed at {step}",
            f"the chunk ended completed at step {step}",
        ),
        _value("dual_gpu_ok", 2, "yes", "yes", "both GPUs were busy in 41 of 41 samples"),
        _value(
            "checkpoint",
            3,
            f"{step}, valid",
            f"{step}, valid",
            f"the newest checkpoint, {stage}_step_{step - 1}, is valid",
        ),
        _value("visualization", 4, "newer", "newer", "the newest picture is newer than the chunk's start"),
        _value("history", 5, "4000", "4000", "the history has rows for 4000 of the chunk's 4000 updates"),
        _value(
            "late_over_mid",
            6,
            f"{late:.4f}",
            "0.5331",
            f"late mean {late:.4f} is {'above' if failing else 'within'} 1.02 times the mid mean 0.5226",
            not failing,
        ),
        _value("delta", 6, "0.071" if failing else "-0.135", "0.2", "delta is at or below 0.2"),
        _value("final_loss", 6, f"{late:.4f}", "5", f"final loss {late:.4f} is at or below 5"),
        _value("visual_structure", 7, "edges 0.786", "edges 0.12", "the pictures keep their structure"),
    ]


def _value(name: str, check: int, value: str, threshold: str, text: str, ok: bool = True) -> Measured:
    return Measured(name=name, check=check, value=value, threshold=threshold, ok=ok, text=text)


def gate(
    stage: GateStage,
    attempt: int,
    start: int,
    step: int,
    time: float,
    *,
    decision: Decision = "continue",
    verdict: Verdict = "continue",
    resume: int | None = None,
    superseded: bool = False,
    changes: dict[str, Any] | None = None,
    why: str = "every value is within its limit",
    retries: int = 0,
) -> GateRow:
    accepted = decision == "continue"
    going_on = step if resume is None else resume
    return gate_row(
        stage,
        attempt,
        start,
        step,
        time,
        decision=decision,
        verdict=verdict,
        reason="healthy" if accepted else "gate_fail",
        why=why,
        values=values(stage, step, not accepted, 0.001 * (attempt % 40)),
        metrics={"final_loss": 0.41683, "min_loss": 0.2217, "action_entropy": 1.589, "learning_rate": 3e-4},
        changes=changes or {},
        resume_from=link(stage, going_on) if going_on else None,
        resume_step=going_on,
        accepted=accepted,
        superseded=superseded,
        effective_batch=64,
        retries_used=retries,
        evidence=[
            Link(text="history", path=f"Logs/{stage}_history_{RUN}_gate.csv"),
            Link(text="picture", path=f"results/{NAME}/{stage}/visualizations/{stage}_step_{step - 1}.png"),
        ],
        recommendations=[] if accepted else ["look at the pictures of this gate before you resume"],
    )


def attempt(
    stage: Stage, number: int, start: int, end: int | None, target: int, began: float, **other: Any
) -> AttemptRow:
    plain = {
        "target_step": target,
        "ended": None if end is None else began + 1100,
        "parameters": {
            "learning_rate": 3e-4,
            "batch_size_per_gpu": 16,
            "gradient_accumulation_steps": 2,
            "log_interval": 1000,
        },
    }
    return attempt_row(stage, number, start, end, began, **(plain | other))


def stage_at(stage: GateStage, state: str, step: int, target: int, **other: Any) -> StageRow:
    plain: dict[str, Any] = {
        "step": step,
        "accepted_step": step,
        "target": target,
        "attempt": 0,
        "gates": 0,
        "loss": None,
        "learning_rate": None,
        "updates_per_sec": None,
        "frames_per_sec": None,
        "rungs": LADDER.get(stage, []),
        "checkpoint": link(stage, step) if step else None,
        "best": link(stage, step) if step else None,
    }
    return stage_row(stage, state, **(plain | other))


def midway(now: float = NOW) -> Page:
    """A run in the middle of dynamics: two retunes with rollbacks, a relaunch, alerts, an idle GPU."""
    hour = 3600.0
    began = now - 5 * hour - 47 * 60
    gates = [
        *[gate("video_tokenizer", n, 4000 * (n - 1), 4000 * n, began + 620 * n) for n in range(1, 6)],
        gate("latent_actions", 1, 0, 2000, began + 1.1 * hour),
        gate(
            "latent_actions",
            2,
            2000,
            4000,
            began + 1.3 * hour,
            verdict="watch",
            why="action entropy 0.38 is below 0.4, unique actions 3 are enough",
        ),
        *[
            gate("latent_actions", n, 2000 * (n - 1), 2000 * n, began + (0.9 + 0.2 * n) * hour)
            for n in range(3, 6)
        ],
        gate("dynamics", 1, 0, 8000, began + 2.4 * hour),
        gate("dynamics", 2, 8000, 16000, began + 2.9 * hour),
        gate(
            "dynamics",
            3,
            16000,
            24000,
            began + 3.4 * hour,
            decision="retune",
            verdict="retune",
            resume=16000,
            superseded=True,
            changes={"learning_rate": 6e-5, "gradient_accumulation_steps": 1, "log_interval": 500},
            retries=1,
            why="the loss rose: late mean 0.6130 is above 1.02 times the mid mean 0.5226",
        ),
        gate("dynamics", 4, 16000, 20000, began + 3.7 * hour, retries=1),
        gate("dynamics", 5, 20000, 28000, began + 4.2 * hour),
        gate(
            "dynamics",
            6,
            28000,
            36000,
            began + 4.7 * hour,
            decision="retune",
            verdict="retune",
            resume=28000,
            superseded=True,
            changes={"learning_rate": 1.2e-5},
            retries=1,
            why="two gates in a row lost their structure: edges 0.09 is below 0.12",
        ),
        gate(
            "dynamics",
            7,
            28000,
            32000,
            began + 5.1 * hour,
            verdict="watch",
            why="late mean is within 1.08 times the mid mean, not within 1.02",
            retries=1,
        ),
    ]
    attempts = [
        *[
            attempt("video_tokenizer", n, 4000 * (n - 1), 4000 * n, 4000 * n, began + 620 * (n - 1))
            for n in range(1, 6)
        ],
        *[
            attempt("latent_actions", n, 2000 * (n - 1), 2000 * n, 2000 * n, began + (0.8 + 0.2 * n) * hour)
            for n in range(1, 6)
        ],
        attempt("dynamics", 1, 0, 8000, 8000, began + 2 * hour),
        attempt("dynamics", 2, 8000, 16000, 16000, began + 2.4 * hour, launches=2),
        attempt(
            "dynamics", 3, 16000, 24000, 24000, began + 2.9 * hour, superseded_from=16000, decision="retune"
        ),
        attempt("dynamics", 4, 16000, 20000, 20000, began + 3.4 * hour, parent="dynamics/2"),
        attempt("dynamics", 5, 20000, 28000, 28000, began + 3.7 * hour),
        attempt(
            "dynamics", 6, 28000, 36000, 36000, began + 4.2 * hour, superseded_from=28000, decision="retune"
        ),
        attempt("dynamics", 7, 28000, 32000, 32000, began + 4.7 * hour, parent="dynamics/5"),
        attempt("dynamics", 8, 32000, None, 40000, began + 5.1 * hour),
    ]
    stages = [
        stage_at(
            "video_tokenizer", "complete", 20000, 20000, attempt=5, gates=5, loss=0.0031, learning_rate=1e-5
        ),
        stage_at(
            "latent_actions", "complete", 10000, 10000, attempt=5, gates=5, loss=0.0412, learning_rate=1e-5
        ),
        stage_at(
            "dynamics",
            "training",
            36412,
            60000,
            accepted_step=32000,
            chunk_target=40000,
            attempt=8,
            gates=7,
            loss=0.4168,
            learning_rate=1.2e-5,
            updates_per_sec=9.42,
            frames_per_sec=603.0,
            eta=now + 2504,
            retries_used=1,
            climbed=["learning_rate 3e-4 -> 6e-5 (attempt 4)", "learning_rate 6e-5 -> 1.2e-5 (attempt 7)"],
            checkpoint=link("dynamics", 32000),
            best=link("dynamics", 28000),
        ),
        stage_at("inference", "waiting", 0, 0, retries_max=2),
    ]
    sheets = [
        SheetRow(
            id=f"{stage}/{n}",
            stage=stage,
            attempt=n,
            step=step,
            path=f"results/{NAME}/{stage}/visualizations/{stage}_step_{step - 1}.png",
            superseded=gone,
            verdict="edges 0.09 is below 0.12" if n == 6 and stage == "dynamics" else "the structure is kept",
        )
        for stage, rows in {
            "video_tokenizer": [(1, 4000, False), (2, 8000, False), (5, 20000, False)],
            "latent_actions": [(1, 2000, False), (5, 10000, False)],
            "dynamics": [
                (1, 8000, False),
                (2, 16000, False),
                (3, 24000, True),
                (5, 28000, False),
                (6, 36000, True),
                (7, 32000, False),
            ],
        }.items()
        for n, step, gone in rows
    ]
    notes = [
        Note(id="1", time=began, level="info", text="The run started: profile inference-safe, 2 GPUs."),
        Note(
            id="2",
            time=began + 0.86 * hour,
            level="good",
            text="video_tokenizer is complete after 20,000 updates.",
        ),
        Note(
            id="3",
            time=began + 1.9 * hour,
            level="good",
            text="latent_actions is complete after 10,000 updates.",
        ),
        Note(
            id="4",
            time=began + 2.6 * hour,
            level="watch",
            text="dynamics: rank 1 was killed by signal 9; relaunched from step 12,000 (launch 2).",
        ),
        Note(
            id="5",
            time=began + 3.4 * hour,
            level="bad",
            text="dynamics at 24,000: retune, the loss rose. It goes on from 16,000 with learning_rate 6e-5.",
        ),
        Note(
            id="6",
            time=began + 4.7 * hour,
            level="bad",
            text="dynamics at 36,000: retune, the pictures lost their structure. It goes on "
            "from 28,000 with learning_rate 1.2e-5.",
        ),
        Note(
            id="7", time=began + 5.1 * hour, level="watch", text="dynamics at 32,000: accepted, but watched."
        ),
        Note(
            id="8",
            time=now - 240,
            level="watch",
            text="GPU 1: utilization below 1 % for 120 s while dynamics trains.",
        ),
    ]
    gpus = [
        GpuRow(
            id=f"0/{index}",
            name=f"GPU {index}  NVIDIA H100 80GB",
            utilization=93.0 - 92.0 * index,
            memory=int(61.2 * 2**30),
            memory_total=80 * 2**30,
            problem="below 1 % for 4 min" if index else None,
            recent=[
                (now - 5 * (119 - k), max(0.0, 92 + 6 * math.sin(k / 3) - (92 if index and k > 72 else 0)))
                for k in range(120)
            ],
        )
        for index in (0, 1)
    ]
    services = [
        ServiceRow(
            id=name,
            service=name,
            pid=4100 + n,
            host="node-a",
            heard=now - (1.4 if name != "inference" else 3.1),
            working_on=["dynamics attempt 8"] if name == "trainer" else [],
            waiting=0,
            unsettled=int(name == "trainer"),
            dead=0,
        )
        for n, name in enumerate(SERVICES)
    ]
    spent = {
        "training": 15510.0,
        "redone": 2905.0,
        "gate": 61.0,
        "checkpoint": 372.0,
        "starting": 262.0,
        "waiting": 1510.0,
    }
    spent["waiting"] += now - began - sum(spent.values())
    return Page(
        now=now,
        live=True,
        run=RunRow(
            run_id=RUN,
            run_name=NAME,
            status="running",
            degraded=False,
            stage="dynamics",
            began=began,
            ended=None,
        ),
        bundle=f"/mnt/runs/{RUN}",
        profile="inference-safe",
        dataset="data/sonic_frames.h5",
        mode="2 GPUs",
        phase="dynamics trains attempt 8, update 36,412 of 40,000; the next gate is at 40,000",
        reason="The last gate, dynamics at 32,000, was accepted but watched.",
        requested=[],
        actions=["pause", "stop", "retune"],
        knobs={
            "learning_rate": 1.2e-5,
            "batch_size_per_gpu": 16,
            "gradient_accumulation_steps": 1,
            "log_interval": 500,
            "amp": True,
        },
        eta=now + 2504,
        stages=stages,
        gates=gates,
        attempts=attempts,
        sheets=sheets,
        notes=notes,
        gpus=gpus,
        services=services,
        reports=[],
        inference=None,
        goodput=Goodput(
            fraction=15510 / (now - began),
            definition="seconds of updates that count, over all seconds since the run started",
            spent=[
                Spent(name=name, seconds=seconds, meaning=MEANINGS[name]) for name, seconds in spent.items()
            ],
        ),
    )


def ended(now: float = NOW) -> Page:
    """The same run after it passed, as a static copy."""
    page = midway(now - 7200)
    inference = Inference(
        time=now - 300,
        inference_try=1,
        passed=True,
        problem=None,
        mode="autoregressive",
        values=[
            _value("mse", 6, "0.0034", "0.03", "MSE 0.0034 is at or below 0.03"),
            _value("skill", 7, "0.7345", "above 0", "skill is 0.7345; the policy wants it above 0"),
        ],
        numbers={
            "psnr": 26.36,
            "ssim": 0.8386,
            "delta_psnr": 6.36,
            "motion_ratio": 0.987,
            "tokenizer_mse": 0.000455,
        },
        picture="inference_results/inference_results_gt_vs_pred_1.png",
        preview=None,
    )
    done = {"state": "complete", "step": 60000, "accepted_step": 60000, "eta": None, "chunk_target": None}
    return page.model_copy(
        update={
            "now": now,
            "live": False,
            "run": page.run.model_copy(update={"status": "passed", "stage": None, "ended": now - 200}),
            "phase": "The run has ended: the inference test passed and every report is written.",
            "reason": "MSE 0.0034 is at or below 0.03, skill 0.7345.",
            "actions": [],
            "eta": None,
            "stages": [
                row.model_copy(
                    update=done
                    if row.stage == "dynamics"
                    else {"state": "complete", "gates": max(row.gates, 1)}
                )
                for row in page.stages
            ],
            "inference": inference,
            "sheets": [
                *page.sheets,
                SheetRow(
                    id="inference/1",
                    stage="inference",
                    attempt=1,
                    step=60000,
                    path=str(inference.picture),
                    superseded=False,
                    verdict="",
                ),
            ],
            "notes": [*page.notes, Note(id="9", time=now - 200, level="good", text="The run passed.")],
            "gpus": [row.model_copy(update={"problem": None}) for row in page.gpus],
            "services": [],
            "reports": [
                ReportRow(id=kind, kind=kind, path=f"docs/action/{kind}.md", error=None, time=now - 210)
                for kind in ("loop", "git", "wandb", "retrospective", "inference")
            ],
        }
    )


def hostile() -> Page:
    """A run whose every free text tries to be HTML."""
    page = midway()
    bad = Note(id="bad", time=page.now, level="bad", text=HOSTILE)
    gates = [
        page.gates[0].model_copy(
            update={
                "why": HOSTILE,
                "recommendations": [HOSTILE],
                "evidence": [Link(text=HOSTILE, path=f"Logs/{HOSTILE}.md")],
                "values": [_value(HOSTILE, 1, HOSTILE, HOSTILE, HOSTILE, ok=False)],
            }
        )
    ]
    return page.model_copy(
        update={
            "run": page.run.model_copy(update={"run_name": HOSTILE}),
            "phase": HOSTILE,
            "reason": HOSTILE,
            "requested": [HOSTILE],
            "knobs": {HOSTILE: HOSTILE},
            "notes": [bad],
            "gates": gates,
            "services": [page.services[0].model_copy(update={"service": HOSTILE, "working_on": [HOSTILE]})],
            "gpus": [page.gpus[0].model_copy(update={"name": HOSTILE, "problem": HOSTILE})],
            "reports": [ReportRow(id="r", kind=HOSTILE, path=None, error=HOSTILE, time=page.now)],
            "sheets": [page.sheets[0].model_copy(update={"verdict": HOSTILE})],
        }
    )


def big(gates: int = 1000) -> Page:
    """A run with so many gates of dynamics, every tenth of them failed and rolled back."""
    page = midway()
    rows: list[GateRow] = []
    attempts: list[AttemptRow] = []
    step, parent = 0, None
    for number in range(1, gates + 1):
        fails = number % 10 == 0
        began = page.run.began + 20.0 * number
        rows.append(
            gate(
                "dynamics",
                number,
                step,
                step + 1000,
                began + 20,
                decision="retune" if fails else "continue",
                verdict="retune" if fails else "continue",
                resume=step if fails else None,
                superseded=fails,
                changes={"learning_rate": 1e-4 * 0.99**number} if fails else None,
                why="the loss rose: late mean 0.6 is above 1.02 times the mid mean"
                if fails
                else "every value is within its limit",
            )
        )
        attempts.append(
            attempt(
                "dynamics",
                number,
                step,
                step + 1000,
                step + 1000,
                began,
                parent=parent,
                superseded_from=step if fails else None,
                decision="retune" if fails else "continue",
            )
        )
        if not fails:
            step, parent = step + 1000, f"dynamics/{number}"
    row = stage_at(
        "dynamics", "training", step, 1_000_000, attempt=gates, gates=gates, loss=0.4, updates_per_sec=9.0
    )
    stages = [row if each.stage == "dynamics" else each for each in page.stages]
    return page.model_copy(update={"gates": rows, "attempts": attempts, "stages": stages})


def history(
    page: Page, stage: Stage, column: str, low: int = 0, high: int = 10**9, points: int = 1500
) -> History:
    """A curve that fits the page's attempts, thinned to so many points."""
    dice = random.Random(7)
    rows = [row for row in page.attempts if row.stage == stage]
    step_now = next(row.step for row in page.stages if row.stage == stage)
    ends = [row.end_step if row.end_step is not None else step_now for row in rows]
    spans = [
        (row, max(row.start_step + 1, low), min(end, high))
        for row, end in zip(rows, ends, strict=True)
        if end >= low and row.start_step <= high
    ]
    every = max(1, sum(max(0, to - start) for _, start, to in spans) // points)
    curves = []
    for row, start, to in spans:
        steps = list(range(start, to + 1, every))
        rise = (
            (lambda at, row=row: 0.35 * (at - row.start_step) / 8000)
            if row.superseded_from is not None
            else (lambda at: 0.0)
        )
        means = [
            _level(stage, column, at) + rise(at) + 0.01 * dice.gauss(0, 1) * _level(stage, column, at)
            for at in steps
        ]
        curves.append(
            Curve(
                attempt=row.attempt,
                superseded_from=row.superseded_from,
                step=steps,
                mean=list(means),
                low=[mean * 0.86 for mean in means],
                high=[mean * (1.16 + 0.2 * dice.random() ** 8) for mean in means],
            )
        )
    columns = [
        "train/loss",
        "learning_rate/group_0",
        "grad_norm",
        *(["action_entropy"] if stage != "video_tokenizer" else []),
    ]
    return History(
        stage=stage,
        column=column,
        columns=columns,
        first=1,
        last=max(ends, default=1),
        rows=sum(ends),
        curves=curves,
    )


def _level(stage: Stage, column: str, step: int) -> float:
    if column.startswith("learning_rate"):
        return 3e-4 * (0.5 + 0.5 * math.cos(math.pi * step / 60000))
    if column == "action_entropy":
        return 1.6 - math.exp(-step / 900)
    end, top = {"video_tokenizer": (0.003, 0.25), "latent_actions": (0.04, 0.6), "dynamics": (0.38, 6.8)}[
        stage
    ]
    return end + (top - end) * math.exp(-step / 900) + 0.3 * end * math.exp(-step / 20000)


def histories(page: Page) -> dict[str, dict[str, History]]:
    """What the static copy holds."""
    return {stage: {"train/loss": history(page, stage, "train/loss")} for stage in STAGES}
