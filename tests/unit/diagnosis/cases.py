"""Runs on the disk, healthy and sick: histories, checkpoints, pictures, bundles."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.diagnosis.collect import Thresholds, collect
from services.diagnosis.core.diagnosis import diagnose
from services.diagnosis.core.model import Diagnosis, StageDiagnosis
from services.gatekeeper.config import Policy
from services.policy import Policy as WholePolicy
from shared.bus.journal import to_line
from shared.bus.memory import Broker, MemoryBus
from shared.config import RunConfig
from shared.events import (
    ChunkPlan,
    ChunkStarted,
    Event,
    GateDecided,
    Reason,
    RunSpec,
    RunStarted,
    Schedule,
    Stage,
    Verdict,
)
from shared.sheets import NAMES, write_sheet

RUN, RUN_NAME = "20260102_030405", "2026_01_02_03_04_05_pong"
ROWS = 600
LOSS, UNIQUE, ENTROPY, RATE = "train/loss", "unique_actions", "action_entropy", "learning_rate/group_0"
USAGE = "latent_actions/codebook_usage"
Table = dict[str, NDArray[np.float64]]


def history(loss: NDArray[np.float64], **columns: NDArray[np.float64]) -> Table:
    steps = np.arange(len(loss), dtype=np.float64)
    return {"_step": steps, LOSS: loss, **columns, "_runtime": steps / 20}


def falling(first: float, last: float, seed: int, rows: int = ROWS) -> NDArray[np.float64]:
    """A healthy loss, with noise."""
    noise = 1 + 0.02 * np.random.default_rng(seed).standard_normal(rows)
    curve: NDArray[np.float64] = (last + (first - last) * np.exp(-np.linspace(0, 8, rows))) * noise
    return curve


def cosine(peak: float, rows: int = ROWS) -> NDArray[np.float64]:
    rate: NDArray[np.float64] = peak * (1 + np.cos(np.linspace(0, np.pi, rows))) / 2
    return rate


def tokenizer() -> Table:
    return history(falling(0.2, 0.004, 1), **{RATE: cosine(3e-4)})


def latent(*, collapsed: bool, rows: int = ROWS) -> Table:
    """Several actions in use, or, from a fifth of the run on, one."""
    draw = np.random.default_rng(2)
    unique = np.full(rows, 3.0)
    entropy = 0.9 + 0.05 * draw.standard_normal(rows)
    usage = np.linspace(0.6, 0.8, rows)
    if collapsed:
        since = rows // 5
        unique[since:], entropy[since:] = 1.0, 0.0
        usage = np.linspace(0.7, 0.25, rows)
    columns = {UNIQUE: unique, ENTROPY: entropy, USAGE: usage, RATE: cosine(1e-4, rows)}
    return history(falling(0.5, 0.04, 3, rows), **columns)


def dynamics(*, diverging: bool, rows: int = ROWS) -> Table:
    """A loss that falls, or one that climbs with the learning rate whatever the actions do."""
    entropy = 0.9 + 0.1 * np.random.default_rng(4).standard_normal(rows)
    unique, rate, loss = np.full(rows, 3.0), cosine(2e-4, rows), falling(6.9, 2.0, 5, rows)
    if diverging:
        rate = np.linspace(1e-5, 5e-4, rows)
        loss = np.linspace(2.2, 5.8, rows) ** 1.05 * (
            1 + 0.01 * np.random.default_rng(6).standard_normal(rows)
        )
    return history(loss, **{UNIQUE: unique, ENTROPY: entropy, RATE: rate})


def write_csv(path: Path, table: Mapping[str, Sequence[float] | NDArray[np.float64]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
    return path


def write_checkpoints(run: Path, stage: Stage, steps: Sequence[int], *, size: int = 4096) -> list[Path]:
    """Directories with files of a size; what they hold is nothing that torch could read."""
    made = []
    for step in steps:
        directory = run / stage / "checkpoints" / f"{stage}_step_{step - 1}"
        directory.mkdir(parents=True)
        for name in ("model_state_dict.pt", "optim_state_dict.pt"):
            (directory / name).write_bytes(b"x" * size)
        (directory / "state.pt").write_bytes(b"x" * 200)
        made.append(directory)
    return made


def write_sheets(run: Path, stage: Stage, steps: Sequence[int], *, flat: Sequence[int] = ()) -> None:
    """Sheets of squares that move; at the steps of `flat` the generated side is one colour."""
    draw = np.random.default_rng(7)
    originals = draw.integers(0, 255, (2, 4, 8, 8, 3), dtype=np.uint8).repeat(8, axis=2).repeat(8, axis=3)
    for step in steps:
        generated = np.full_like(originals, 90) if step in flat else originals
        folder = run / stage / "visualizations"
        folder.mkdir(parents=True, exist_ok=True)
        write_sheet(folder / f"{NAMES[stage]}_step_{step - 1}.png", originals, generated)


def results(root: Path, histories: Mapping[Stage, Table]) -> Path:
    """A run that is not ours: results, pictures, and its histories exported to Logs/."""
    for stage, table in histories.items():
        write_csv(root / "Logs" / f"{stage}_history_latest.csv", table)
        write_checkpoints(root / "results" / RUN_NAME, stage, [200, 400, len(table["_step"])])
        write_sheets(root / "results" / RUN_NAME, stage, [1, 400])
    return root


def healthy(root: Path) -> Path:
    return results(
        root,
        {
            "video_tokenizer": tokenizer(),
            "latent_actions": latent(collapsed=False),
            "dynamics": dynamics(diverging=False),
        },
    )


def gate(stage: Stage, attempt: int, verdict: Verdict, **fields: Any) -> GateDecided:
    failed = [] if verdict == "continue" else [
        Reason(check=6, name="final_loss", value=7.0, threshold=5.0, ok=False, text="final loss 7 is above 5")
    ]  # fmt: skip
    given: dict[str, Any] = {
        "run_id": RUN,
        "stage": stage,
        "attempt": attempt,
        "gate_step": 200 * attempt,
        "target_step": 1000,
        "decision": "retune" if verdict == "retune" else "continue",
        "verdict": verdict,
        "reason": {"retune": "gate_fail", "watch": "watch", "continue": "healthy"}[verdict],
        "reasons": failed,
        "metrics": {},
        "resume_from": None,
        "resume_step": 0,
        "effective_batch": 8,
        "launcher_pid": 1,
        "dual_gpu_ok": None,
        "evidence_paths": [f"Logs/history/{stage}/attempt_{attempt:04d}.csv"],
        "retries_used": 0,
        "retries_max": 5,
        "restarts_used": 0,
    }
    return GateDecided(**(given | fields))


def chunk_started(stage: Stage) -> ChunkStarted:
    plan = ChunkPlan(
        stage=stage,
        attempt=1,
        start_step=0,
        target_step=200,
        schedule=Schedule(peak=3e-4, start_step=0, end_step=1000),
        parameters=RunConfig().stage(stage).model_dump(mode="json"),
    )
    given = {"launcher_pid": 1, "host": "here", "device": "cpu", "world_size": 2}
    return ChunkStarted(run_id=RUN, stage=stage, attempt=1, plan=plan, **given)


def bundle(root: Path, events: Sequence[Event], histories: Mapping[Stage, Sequence[Table]]) -> Path:
    """A run of ours: events and the attempts' histories, with a policy of its own."""
    spec = RunSpec(
        bundle="/elsewhere",
        run_name=RUN_NAME,
        profile="demo",
        configuration=RunConfig().model_dump(mode="json"),
        policy=WholePolicy().model_dump(mode="json"),
        origins={},
        stages=["dynamics"],
    )

    async def record() -> list[str]:
        bus = MemoryBus("gatekeeper", broker=Broker())
        started = [chunk_started(stage) for stage in histories]
        for event in [RunStarted(run_id=RUN, spec=spec), *started, *events]:
            await bus.publish(event)
        return [to_line(recorded) for recorded in await bus.events(RUN)]

    lines = asyncio.run(record())
    (root / "Logs").mkdir(parents=True)
    (root / "Logs" / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))
    for stage, tables in histories.items():
        for attempt, table in enumerate(tables, start=1):
            write_csv(root / "Logs" / "history" / stage / f"attempt_{attempt:04d}.csv", table)
    return root


def look(path: Path, *, stage: Stage | None = None, policy: Policy | None = None) -> Diagnosis:
    """Diagnose a path by the default policy, or by one that was asked for."""
    return diagnose(
        collect(path, Thresholds(policy or Policy(), "test", own=policy is not None), stage=stage)
    )


def of(found: Diagnosis, stage: Stage) -> StageDiagnosis:
    return next(each for each in found.stages if each.stage == stage)


def names(stage: StageDiagnosis) -> list[str]:
    return [finding.name for finding in stage.findings]
