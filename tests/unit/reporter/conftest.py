"""A run's events for the reporter's tests, told one by one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.bundle import Bundle
from shared.bus.protocol import Recorded
from shared.config import RunConfig
from shared.events import (
    ChunkDone,
    ChunkPlan,
    ChunkStarted,
    Event,
    GateDecided,
    InferenceDone,
    Reason,
    RunSpec,
    RunStarted,
    Schedule,
    Stage,
)

RUN = "20260101_000000"
NAME = "2026_01_01_00_00_00_pong"
ROLLED_BACK: dict[str, Any] = {
    "decision": "retune",
    "verdict": "retune",
    "reason": "gate_fail",
    "accepted_checkpoint": None,
    "resume_from": None,
    "resume_step": 0,
}
"""Of a gate after which the stage was trained anew."""


class Log:
    """Collects events as the log would hold them: one a minute, from midnight."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.records = bundle, list[Recorded]()

    def add(self, event: Event, source: str = "/worldloop/gatekeeper") -> Log:
        time = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=len(self.records))
        self.records.append(Recorded(len(self.records) + 1, time, source, event))
        return self

    def begin(self, *, stages: tuple[Stage, ...] = ("dynamics",), config: Any = None, **changes: Any) -> Log:
        spec = RunSpec(
            bundle=str(self.bundle.root),
            run_name=NAME,
            profile="demo",
            configuration=RunConfig.model_validate(config or {}).model_dump(mode="json"),
            policy=changes.pop("policy", {"gatekeeper": {"max_retries": 5}}),
            origins={"training.seed": "configs/training.yaml"},
            stages=list(stages),
            **changes,
        )
        return self.add(RunStarted(run_id=RUN, spec=spec))

    def chunk(
        self,
        attempt: int,
        start: int,
        end: int,
        *,
        stage: Stage = "dynamics",
        gate: dict[str, Any] | None = None,
        rows: bool = True,
        **parameters: Any,
    ) -> Log:
        """A chunk with its gate; `gate` holds what is not as in a healthy one."""
        plan = ChunkPlan(
            stage=stage,
            attempt=attempt,
            start_step=start,
            target_step=end,
            schedule=Schedule(peak=parameters.pop("peak", 1e-3), start_step=0, end_step=100),
            parameters={"batch_size_per_gpu": 4, "nproc_per_node": 2} | parameters,
        )
        history = self.bundle.history(stage, attempt)
        if rows:
            history.parent.mkdir(parents=True, exist_ok=True)
            lines = "".join(f"{step},{1 / (step + attempt)}\n" for step in range(start, end))
            history.write_text("_step,train/loss\n" + lines)
        self.add(
            ChunkStarted(
                run_id=RUN,
                stage=stage,
                attempt=attempt,
                plan=plan,
                launcher_pid=4000 + attempt,
                host="h",
                device="cpu",
                world_size=2,
            ),
            "/worldloop/trainer",
        )
        self.add(
            ChunkDone(
                run_id=RUN,
                stage=stage,
                attempt=attempt,
                reason="completed",
                start_step=start,
                end_step=end,
                target_step=end,
                launch=1,
                launcher_pid=4000 + attempt,
                device="cpu",
                world_size=2,
                checkpoints=[],
                history=self.bundle.relative(history),
                seconds=30.0,
            ),
            "/worldloop/trainer",
        )
        return self.add(self.gate(attempt, end, stage=stage, **(gate or {})))

    def gate(self, attempt: int, step: int, *, stage: Stage = "dynamics", **changes: Any) -> GateDecided:
        checkpoint = f"results/{NAME}/{stage}/checkpoints/{stage}_step_{step - 1}"
        healthy: dict[str, Any] = {
            "decision": "continue",
            "verdict": "continue",
            "reason": "healthy",
            "reasons": [
                Reason(
                    check=6,
                    name="final_loss",
                    value=0.25,
                    threshold=5.0,
                    ok=True,
                    text="the loss is low enough",
                )
            ],
            "metrics": {},
            "resume_from": checkpoint,
            "resume_step": step,
            "accepted_checkpoint": checkpoint,
            "best_checkpoint": checkpoint,
            "effective_batch": 8,
            "launcher_pid": 4000 + attempt,
            "dual_gpu_ok": None,
            "evidence_paths": [f"Logs/history/{stage}/attempt_{attempt:04d}.csv"],
            "retries_used": 0,
            "retries_max": 5,
            "restarts_used": 0,
            "target_step": 100,
        }
        return GateDecided(run_id=RUN, stage=stage, attempt=attempt, gate_step=step, **(healthy | changes))

    def inference(self, **changes: Any) -> Log:
        """An inference test that went well, but for what is given, and its gate."""
        number = changes.pop("inference_try", 1)
        good: dict[str, Any] = {
            "ok": True,
            "checkpoints": {"dynamics": f"results/{NAME}/dynamics/checkpoints/dynamics_step_99"},
            "picture": "inference_results/inference_results_gt_vs_pred_1.png",
            "frames_expected": 12,
            "frames_inferred": 12,
            "clips": 8,
            "held_out": True,
            "mse": 0.004,
            "mse_low": 0.003,
            "mse_high": 0.005,
            "mse_standard": 0.002,
            "mse_per_frame": [0.003, 0.005],
            "persistence_mse": 0.012,
            "persistence_per_frame": [0.01, 0.014],
            "skill": 0.67,
            "skill_per_frame": [0.7, 0.64],
            "psnr": 24.0,
            "psnr_per_frame": [25.0, 23.0],
            "tokenizer_mse": 0.001,
            "tokenizer_psnr": 30.0,
            "motion_ratio": 0.95,
            "mean_frame_mse": 0.01,
            "mean_frame_skill": 0.2,
            "seconds": 2.0,
            "actions_in_use": 4,
            "actions_total": 4,
        }
        self.add(InferenceDone(run_id=RUN, inference_try=number, **(good | changes)), "/worldloop/inference")
        passed = self.gate(number, 100, decision="stop", reason="passed")
        return self.add(passed.model_copy(update={"stage": "inference", "attempt": number}))


@pytest.fixture(autouse=True, scope="session")
def _no_matplotlib_directory_in_the_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp() / "matplotlib"))
        yield


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path / RUN, NAME)


@pytest.fixture
def log(bundle: Bundle) -> Log:
    """An empty log."""
    return Log(bundle)
