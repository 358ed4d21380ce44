"""A run of many gates and many history rows, written without training anything.

Every third gate fails and rolls back half of its chunk, so that lineage and superseded updates are there too.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from shared.bundle import Bundle
from shared.bus.journal import to_line
from shared.bus.protocol import Recorded
from shared.config import RunConfig
from shared.events import (
    STAGES,
    ArtifactEvidence,
    ChunkDone,
    ChunkPlan,
    ChunkStarted,
    Event,
    GateDecided,
    GpuEvidence,
    HistoryStats,
    Reason,
    RunSpec,
    RunStarted,
    Schedule,
    Stage,
    StageStarted,
    VisualNumbers,
)

RUN, NAME = "20260102_030405", "2026_01_02_03_04_05_big"
HEAD = "_step,train/loss,action_entropy,unique_actions,learning_rate/group_0,grad_norm,_runtime\n"


def records(bundle: Bundle, gates: int, chunk: int) -> list[Recorded]:
    """The run's events: `gates` chunks of dynamics, `chunk` updates each, and it goes on."""
    found: list[Recorded] = []
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def add(event: Event, seconds: float = 0.01) -> datetime:
        nonlocal at
        at += timedelta(seconds=seconds)
        found.append(Recorded(len(found) + 1, at, "/worldloop/test", event))
        return at

    target = (gates + 1) * chunk
    spec = RunSpec(
        bundle=str(bundle.root),
        run_name=NAME,
        profile="inference-safe",
        configuration=RunConfig().model_dump(mode="json"),
        policy={"gatekeeper": {"max_retries": 5, "max_restarts": 2}},
        origins={},
        stages=["dynamics"],
        checkpoints=dict.fromkeys(STAGES[:2], "given"),
        given_steps=dict.fromkeys(STAGES[:2], 1),
    )
    add(RunStarted(run_id=RUN, spec=spec))
    add(StageStarted(run_id=RUN, stage="dynamics", start_step=0, target_step=target, resume_from=None))
    step = 0
    for attempt in range(1, gates + 1):
        step = _chunk(bundle, add, attempt, step, chunk, target)
    return found


def _chunk(bundle: Bundle, add: object, attempt: int, start: int, chunk: int, target: int) -> int:
    assert callable(add)
    stage: Stage = "dynamics"
    end, failed = start + chunk, attempt % 3 == 0
    who = {"run_id": RUN, "stage": stage, "attempt": attempt}
    sheet = f"results/{NAME}/{stage}/visualizations/dynamics_prediction_step_{end - 1}.png"
    checkpoint = f"results/{NAME}/{stage}/checkpoints/{stage}_step_{end - 1}"
    parameters = {
        "batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 2,
        "nproc_per_node": 2,
        "context_length": 4,
        "learning_rate": 5e-4,
        "log_interval": chunk,
    }
    plan = ChunkPlan(
        stage=stage,
        attempt=attempt,
        start_step=start,
        target_step=end,
        schedule=Schedule(peak=5e-4, start_step=0, end_step=target),
        parameters=parameters,
        resume_from=None if start == 0 else f"results/{NAME}/{stage}/checkpoints/{stage}_step_{start - 1}",
    )
    shared = {"launcher_pid": 4242, "device": "cuda", "world_size": 2}
    began = add(ChunkStarted(**who, plan=plan, host="host", warm=attempt > 1, **shared))
    history = bundle.relative(bundle.history(stage, attempt))
    timing = {"first_update_begin": began.timestamp() + 1, "last_update_end": began.timestamp() + 58}
    add(
        ChunkDone(
            **who,
            **shared,
            reason="completed",
            start_step=start,
            end_step=end,
            target_step=end,
            launch=1,
            checkpoints=[],
            visualization=sheet,
            history=history,
            seconds=60.0,
            timing=timing | {"checkpoint": 0.5, "visualization": 0.2},
        ),
        60.0,
    )
    add(GpuEvidence(**who, evidence="nvml", dual_gpu_ok=True))
    stats = HistoryStats(
        file=history,
        rows=chunk,
        dropped_rows=0,
        first_step=start,
        last_step=end - 1,
        covered_steps=chunk,
        final_loss=0.5,
        min_loss=0.4,
        median_loss=0.6,
        loss=None,
        frames_per_sec=560.0,
    )
    visual = VisualNumbers(
        sheet=sheet, step=end, fresh=True, frames=16, contrast=1, flat_blocks=0, striping=0, edges=1
    )
    add(ArtifactEvidence(**who, history=stats, visual=visual))
    resume = start + chunk // 2 if failed else end
    reasons = [
        Reason(
            check=min(check, 7),
            name=f"check_{check}" if check != 6 else "final_loss",
            value=0.5 + check / 100,
            threshold=5.0,
            ok=not (failed and check == 6),
            text=f"the value of check {check} was looked at and compared with what the policy says of it",
        )
        for check in range(1, 13)
    ]
    add(
        GateDecided(
            **who,
            gate_step=end,
            target_step=target,
            decision="retune" if failed else "continue",
            verdict="retune" if failed else "continue",
            reason="gate_fail" if failed else "healthy",
            reasons=reasons,
            metrics={"final_loss": 0.5, "early": 0.7, "late": 0.6},
            resume_from=f"results/{NAME}/{stage}/checkpoints/{stage}_step_{resume - 1}",
            resume_step=resume,
            accepted_checkpoint=None if failed else checkpoint,
            best_checkpoint=None if failed else checkpoint,
            next_target_step=resume + chunk,
            config_patch_applied={"learning_rate": 4e-4} if failed else {},
            effective_batch=16,
            launcher_pid=4242,
            dual_gpu_ok=True,
            evidence_paths=[history, sheet, checkpoint],
            retries_used=int(failed),
            retries_max=5,
            restarts_used=0,
        )
    )
    return resume


def write_big_run(root: Path, gates: int = 1000, points: int = 1_000_000) -> Path:
    """Write a bundle: its events and the histories of its attempts; no picture, no checkpoint.

    Returns:
        `root`.
    """
    bundle, chunk = Bundle(root, NAME), max(2, points // gates)
    told = records(bundle, gates, chunk)
    bundle.events.parent.mkdir(parents=True, exist_ok=True)
    bundle.events.write_text("".join(to_line(record) + "\n" for record in told), encoding="utf-8")
    bundle.history("dynamics", 1).parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for record in told:
        if isinstance(record.message, ChunkDone):
            _write_rows(bundle, record.message, rng)
    return root


def _write_rows(bundle: Bundle, done: ChunkDone, rng: np.random.Generator) -> None:
    steps = np.arange(done.start_step, done.end_step)
    loss = 5 / np.sqrt(1 + steps / 1000) * np.exp(rng.normal(0, 0.05, len(steps)))
    text = [HEAD]
    text += [
        f"{step},{value!r},1.38,4.0,{5e-4!r},{value / 3!r},{0.057 * number:.4f}\n"
        for number, (step, value) in enumerate(zip(steps.tolist(), loss.tolist(), strict=True))
    ]
    bundle.history(done.stage, done.attempt).write_text("".join(text))
