"""The flags of `worldloop train`, in one table: what each is called, which key it sets, what --help says.

`TrainOptions` is the table. Each field that is a flag carries a `Flag`; the command's declaration
(`services.commands.groups.train`), the keys that are set and the help all come from there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from services.commands.configuration.dotted_keys import KeyPath, Setting
from services.commands.training.flags import (
    OF_PROFILE,
    OF_TRAINING,
    Flag,
    flag_of,
    gate_flag,
    report_flag,
    stage_flag,
)
from shared.errors import UsageError
from shared.events import STAGES, Stage

EACH_STAGE = "<stage>."
"""Begins the keys that are set in every stage that is trained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What `worldloop train` was asked for; none is `not given`."""

    assignments: tuple[str, ...] = ()
    """KEY=VALUE."""
    profile: Annotated[str, Flag("Named parameter set in configs/profiles.")] = "inference-safe"
    configs: Annotated[
        Path | None,
        Flag("Configuration files; default ./configs, else those of the package.", metavar="DIR"),
    ] = None
    dataset: Annotated[
        str | None,
        Flag(
            "ZELDA, SONIC, POLE_POSITION, PICODOOM, PONG (data/<name>_frames.h5) or a file.",
            "training.dataset",
            OF_TRAINING,
        ),
    ] = None
    train_stage: Annotated[
        Literal["all", "none"],
        Flag("none: inference and reports only, on given or the newest valid checkpoints."),
    ] = "all"
    only_stage: Annotated[
        Stage | None,
        Flag(
            "Train one stage; dynamics needs --video-checkpoint and --latent-checkpoint.",
            default="all three",
        ),
    ] = None
    video_checkpoint: Annotated[
        str | None,
        Flag(
            "Step directory, checkpoints/ folder or run; resumes a stage that is trained.",
            metavar="CHECKPOINT",
        ),
    ] = None
    latent_checkpoint: Annotated[str | None, Flag("Likewise for latent actions.", metavar="CHECKPOINT")] = (
        None
    )
    dynamics_checkpoint: Annotated[str | None, Flag("Likewise for dynamics.", metavar="CHECKPOINT")] = None
    checkpoint_policy: Annotated[
        Literal["fresh", "latest"],
        Flag(
            "latest: stages without a given checkpoint go on from the newest valid one, under the output "
            "root or in the checkout."
        ),
    ] = "fresh"
    target_updates: Annotated[
        int | None, Flag("Absolute target of each trained stage.", "<stage>.n_updates", OF_PROFILE, min=1)
    ] = None
    video_chunk: Annotated[int | None, stage_flag("chunk", "video_tokenizer", "Updates between gates.")] = (
        None
    )
    latent_chunk: Annotated[int | None, stage_flag("chunk", "latent_actions")] = None
    dynamics_chunk: Annotated[int | None, stage_flag("chunk", "dynamics")] = None
    video_min_batch_size: Annotated[
        int | None, stage_flag("min_batch_size", "video_tokenizer", "Retune to no less.")
    ] = None
    latent_min_batch_size: Annotated[int | None, stage_flag("min_batch_size", "latent_actions")] = None
    dynamics_min_batch_size: Annotated[int | None, stage_flag("min_batch_size", "dynamics")] = None
    init_batch_size: Annotated[
        int | None,
        Flag("First attempt's batch per process.", "<stage>.batch_size_per_gpu", OF_PROFILE, min=1),
    ] = None
    init_grad_accum: Annotated[
        int | None, Flag("Likewise.", "<stage>.gradient_accumulation_steps", OF_PROFILE, min=1)
    ] = None
    init_learning_rate: Annotated[
        float | None, Flag("First attempt's peak learning rate.", "<stage>.learning_rate", OF_PROFILE)
    ] = None
    init_log_interval: Annotated[
        int | None,
        Flag("First attempt's checkpoint interval.", "<stage>.log_interval", OF_PROFILE, min=1),
    ] = None
    nproc_per_node: Annotated[
        int | None, Flag("Training processes, one per GPU.", "training.nproc_per_node", "2", min=1)
    ] = None
    nnodes: Annotated[
        int | None,
        Flag("Hosts a chunk spans, a trainer with its --node-rank on each.", "training.nnodes", "1", min=1),
    ] = None
    rdzv_endpoint: Annotated[
        str | None, Flag("host:port of node 0, for more than one host.", "training.rdzv_endpoint", "-")
    ] = None
    allow_single_gpu: Annotated[
        bool, Flag("Go on with fewer GPUs than processes asked for.", None, "false")
    ] = False
    device: Annotated[Literal["auto", "cpu", "cuda"] | None, Flag("", "training.device", "auto")] = None
    cleanup_extra_processes: Annotated[
        bool | None,
        Flag("End other launchers of this stack.", "policy.trainer.cleanup_extra_processes", "true"),
    ] = None
    enforce_dual_gpu_check: Annotated[
        bool | None, gate_flag("enforce_dual_gpu_check", "true", "Both GPUs must be active.")
    ] = None
    monitor_interval_sec: Annotated[
        float | None, Flag("Between GPU readings.", "policy.monitor.monitor_interval_sec", "5")
    ] = None
    gpu_util_threshold: Annotated[
        float | None, Flag("Percent that counts as active.", "policy.monitor.gpu_util_threshold", "1")
    ] = None
    gpu_required_samples: Annotated[
        int | None, Flag("Active readings a GPU needs.", "policy.monitor.gpu_required_samples", "2")
    ] = None
    max_retries: Annotated[int | None, gate_flag("max_retries", "5", "Failed gates per stage.")] = None
    max_inference_retries: Annotated[
        int | None, gate_flag("max_inference_retries", "2", "Failed inference gates.")
    ] = None
    retry_chunk: Annotated[
        int | None, gate_flag("retry_chunk", "2000", "Updates after a failed inference gate.")
    ] = None
    retry_init_learning_rate: Annotated[
        float | None, gate_flag("retry_init_learning_rate", "0.0005", "Its largest peak, before decay.")
    ] = None
    retry_lr_decay: Annotated[float | None, gate_flag("retry_lr_decay", "0.7", "Factor per such retry.")] = (
        None
    )
    max_mse: Annotated[float | None, Flag("Limit of the inference gate.", "inference.max_mse", "0.03")] = None
    teacher_forced: Annotated[
        bool, Flag("Give true frames as context.", "inference.teacher_forced", "false")
    ] = False
    sample_index: Annotated[
        int | None, Flag("Test on this window alone.", "inference.sample_index", "none", min=0)
    ] = None
    enable_wandb_analysis: Annotated[
        bool | None, report_flag("enable_wandb_analysis", "true", "The W&B report: whether it is wanted.")
    ] = None
    wandb_source: Annotated[
        Literal["api_first", "api_only", "local_only"] | None,
        report_flag("wandb_source", "api_first", "The W&B report: where its history comes from."),
    ] = None
    history_audit_year: Annotated[
        int | None, report_flag("history_audit_year", "2025", "The git evidence report: of which year.")
    ] = None
    history_audit_mode: Annotated[
        Literal["strict", "wide", "current_paths"] | None,
        report_flag("history_audit_mode", "strict", "The git evidence report: which commits count."),
    ] = None
    history_repo: Annotated[
        Path | None,
        report_flag("history_repo", "the checkout, else .", "The git evidence report: of which repository."),
    ] = None
    checkout: Annotated[
        Path | None,
        Flag(
            "TinyWorlds repository that trains instead of the built-in trainer.",
            "policy.trainer.checkout",
            "none",
            names=("--checkout", "--repo-root"),
            metavar="DIR",
        ),
    ] = None
    python_exec: Annotated[
        Path | None,
        Flag(
            "Interpreter of the checkout.",
            "policy.trainer.python_exec",
            "its .venv's, else this one",
            metavar="FILE",
        ),
    ] = None
    torchrun: Annotated[
        Path | None,
        Flag(
            "Launcher of the checkout.",
            "policy.trainer.torchrun",
            "the interpreter's",
            metavar="FILE",
        ),
    ] = None
    inference_backend: Annotated[
        Literal["own", "checkout"] | None,
        Flag(
            "checkout: the inference gate runs its scripts/run_inference.py.",
            "policy.inference.backend",
            "own",
        ),
    ] = None
    output_root: Annotated[
        Path | None,
        Flag(
            "Where bundles go: else WORLDLOOP_OUTPUT_ROOT, training.output_root, ./runs.",
            metavar="DIR",
        ),
    ] = None
    observe: Annotated[bool, Flag("Decide and record, never intervene.", None, "false")] = False

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
    def needed(self) -> list[Stage]:
        """Stages of which the run has a use for a checkpoint."""
        return list(STAGES) if self.inference else self.stages

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
            alone = stages == ["dynamics"] and stage != "dynamics" and self.checkpoint_policy == "fresh"
            if value is None and alone:
                raise UsageError(
                    f"--only-stage dynamics needs {flag}: a step directory, a checkpoints/ folder or a run"
                )
            if value is not None and stage not in self.needed:
                raise UsageError(f"{flag} plays no part in --only-stage {stages[0]}: leave it out")
        return {stage: value for stage, (_, value) in flags.items() if value is not None}

    def settings(self) -> list[Setting]:
        """The flags as settings; the `--init-*` ones and the target go to the stages that are trained."""
        found = []
        for field in fields(self):
            value, key = getattr(self, field.name), FLAGS[field.name].key if field.name in FLAGS else None
            if key is None or value == field.default:
                continue
            plain, flag = str(value) if isinstance(value, Path) else value, flag_of(field.name)
            found += [Setting(path, plain, flag, ".".join(path)) for path in paths(key, self.stages)]
        return found


def paths(key: str, stages: list[Stage]) -> list[KeyPath]:
    """Where the key of a flag leads, for a run that trains these stages."""
    if not key.startswith(EACH_STAGE):
        return [tuple(key.split("."))]
    return [(stage, key.removeprefix(EACH_STAGE)) for stage in stages]


def _table() -> dict[str, Flag]:
    hints: dict[str, Any] = get_type_hints(TrainOptions, include_extras=True)
    return {
        name: mark
        for name, hint in hints.items()
        for mark in getattr(hint, "__metadata__", ())
        if isinstance(mark, Flag)
    }


FLAGS: dict[str, Flag] = _table()
"""Flag (as Python spells it) -> what there is to know of it."""
