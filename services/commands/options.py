"""The flags of `worldloop train`: which keys they set, and which of them need or exclude each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from services.commands.schema import Setting
from shared.errors import UsageError
from shared.events import STAGES, Stage

GATEKEEPER, TRAINER, MONITOR = ("policy", "gatekeeper"), ("policy", "trainer"), ("policy", "monitor")

KEYS: dict[str, tuple[str, ...]] = {
    "dataset": ("training", "dataset"),
    "nproc_per_node": ("training", "nproc_per_node"),
    "device": ("training", "device"),
    "video_chunk": (*GATEKEEPER, "chunk", "video_tokenizer"),
    "latent_chunk": (*GATEKEEPER, "chunk", "latent_actions"),
    "dynamics_chunk": (*GATEKEEPER, "chunk", "dynamics"),
    "video_min_batch_size": (*GATEKEEPER, "min_batch_size", "video_tokenizer"),
    "latent_min_batch_size": (*GATEKEEPER, "min_batch_size", "latent_actions"),
    "dynamics_min_batch_size": (*GATEKEEPER, "min_batch_size", "dynamics"),
    "cleanup_extra_processes": (*TRAINER, "cleanup_extra_processes"),
    "enforce_dual_gpu_check": (*GATEKEEPER, "enforce_dual_gpu_check"),
    "monitor_interval_sec": (*MONITOR, "monitor_interval_sec"),
    "gpu_util_threshold": (*MONITOR, "gpu_util_threshold"),
    "gpu_required_samples": (*MONITOR, "gpu_required_samples"),
    "max_retries": (*GATEKEEPER, "max_retries"),
    "max_inference_retries": (*GATEKEEPER, "max_inference_retries"),
    "retry_chunk": (*GATEKEEPER, "retry_chunk"),
    "retry_init_learning_rate": (*GATEKEEPER, "retry_init_learning_rate"),
    "retry_lr_decay": (*GATEKEEPER, "retry_lr_decay"),
    "max_mse": ("inference", "max_mse"),
    "teacher_forced": ("inference", "teacher_forced"),
    "sample_index": ("inference", "sample_index"),
}
"""Flag (as Python spells it) -> the key it sets."""

STAGE_KEYS: dict[str, str] = {
    "target_updates": "n_updates",
    "init_batch_size": "batch_size_per_gpu",
    "init_grad_accum": "gradient_accumulation_steps",
    "init_learning_rate": "learning_rate",
    "init_log_interval": "log_interval",
}
"""Flag -> the key it sets in every stage that is trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What `worldloop train` was asked for; none is `not given`."""

    profile: str = "inference-safe"
    assignments: tuple[str, ...] = ()
    configs: Path | None = None
    train_stage: Literal["all", "none"] | None = None
    only_stage: Stage | None = None
    video_checkpoint: str | None = None
    latent_checkpoint: str | None = None
    dynamics_checkpoint: str | None = None
    dataset: str | None = None
    target_updates: int | None = None
    video_chunk: int | None = None
    latent_chunk: int | None = None
    dynamics_chunk: int | None = None
    video_min_batch_size: int | None = None
    latent_min_batch_size: int | None = None
    dynamics_min_batch_size: int | None = None
    init_batch_size: int | None = None
    init_grad_accum: int | None = None
    init_learning_rate: float | None = None
    init_log_interval: int | None = None
    nproc_per_node: int | None = None
    allow_single_gpu: bool = False
    device: str | None = None
    cleanup_extra_processes: bool | None = None
    enforce_dual_gpu_check: bool | None = None
    monitor_interval_sec: float | None = None
    gpu_util_threshold: float | None = None
    gpu_required_samples: int | None = None
    max_retries: int | None = None
    max_inference_retries: int | None = None
    retry_chunk: int | None = None
    retry_init_learning_rate: float | None = None
    retry_lr_decay: float | None = None
    max_mse: float | None = None
    teacher_forced: bool | None = None
    sample_index: int | None = None
    output_root: Path | None = None
    observe: bool = False

    @property
    def stages(self) -> list[Stage]:
        """Stages to train, in order.

        Raises:
            UsageError: --only-stage together with --train-stage none.
        """
        if self.only_stage is None:
            return [] if self.train_stage == "none" else list(STAGES)
        if self.train_stage == "none":
            raise UsageError(
                "--train-stage none trains nothing, --only-stage trains one stage: give one of them"
            )
        return [self.only_stage]

    @property
    def inference(self) -> bool:
        """Whether the run goes on to the inference gate."""
        return not self.stages or self.stages[-1] == "dynamics"

    @property
    def checkpoints(self) -> dict[Stage, str]:
        """The given checkpoints.

        Raises:
            UsageError: One that is needed is missing, or one plays no part in the run.
        """
        flags: dict[Stage, tuple[str, str | None]] = {
            "video_tokenizer": ("--video-checkpoint", self.video_checkpoint),
            "latent_actions": ("--latent-checkpoint", self.latent_checkpoint),
            "dynamics": ("--dynamics-checkpoint", self.dynamics_checkpoint),
        }
        stages = self.stages
        for stage, (flag, value) in flags.items():
            if value is None and stages == ["dynamics"] and stage != "dynamics":
                raise UsageError(
                    f"--only-stage dynamics needs {flag}: a step directory, a checkpoints/ folder or a run"
                )
            if value is not None and not self.inference and stage not in stages:
                raise UsageError(f"{flag} plays no part in --only-stage {stages[0]}: leave it out")
        return {stage: value for stage, (_, value) in flags.items() if value is not None}

    def settings(self) -> list[Setting]:
        """The flags as settings; the `--init-*` ones and the target go to the stages that are trained."""
        found = []
        for name, path in KEYS.items():
            if (value := getattr(self, name)) is not None:
                found.append(Setting(path, value, flag_of(name), ".".join(path)))
        for name, key in STAGE_KEYS.items():
            if (value := getattr(self, name)) is not None:
                found += [
                    Setting((stage, key), value, flag_of(name), f"{stage}.{key}") for stage in self.stages
                ]
        return found


def flag_of(name: str) -> str:
    """How a flag is written on the command line."""
    return "--" + name.replace("_", "-")
