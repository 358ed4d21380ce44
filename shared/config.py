"""The training configuration: TinyWorlds' key names, complete and validated.

`configs/training.yaml` holds what all stages share and overrides the stage files; each file's schema is a
class here. `StageConfig` is the flat result for one stage: what a chunk plan carries and a checkpoint stores.
How values from files, profile and flags come together is `services.commands.configuration.resolve`'s.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shared.events import STAGES, Stage

Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes."""
Device = Literal["auto", "cpu", "cuda"]

MOST_NODES, MOST_RANKS = 4096, 1024
"""Hosts of a chunk, and ranks on each: a slip of the keyboard asks for more."""
MOST_PATCHES, MOST_CODES, MOST_ACTIONS = 256, 2**24, 2**16
"""Patches along a side of a frame, codes of a patch, latent actions: no model here is trained with more."""
KNOBS = ("batch_size_per_gpu", "gradient_accumulation_steps", "learning_rate", "log_interval")
"""What a ladder or an operator may change between chunks."""
ALIGNED = ("patch_size", "context_length", "frame_size", "latent_dim", "num_bins", "n_actions")
"""Come from training.yaml alone."""
BACKBONE = ("embed_dim", "num_heads", "hidden_dim", "num_blocks")
"""Agree across the three stages."""
ARCHITECTURE: dict[Stage, tuple[str, ...]] = {
    "video_tokenizer": (*BACKBONE, "patch_size", "context_length", "frame_size", "latent_dim", "num_bins"),
    "latent_actions": (*BACKBONE, "patch_size", "context_length", "frame_size", "n_actions"),
    "dynamics": (*BACKBONE, *ALIGNED),
}
"""Keys that decide the shapes of a stage's weights."""


class Config(BaseModel):
    """Base of configurations: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def recorded(cls, values: object) -> Self:
        """Read back what an event holds; keys that only another version knows are dropped.

        What a person writes is validated with `model_validate`, which names such a key.

        Raises:
            ValidationError: A value that this version cannot use.
        """
        return cls.model_validate(values, extra="ignore")


class Distributed(Config):
    """How ranks work together."""

    use_ddp: bool = True


class TrainingConfig(Config):
    """`configs/training.yaml`: shared by all stages."""

    dataset: str = "PONG"
    """ZELDA, SONIC, POLE_POSITION, PICODOOM, PONG (data/<name>_frames.h5) or a file."""
    frame_size: Positive = 64
    patch_size: Positive = 4
    context_length: Annotated[int, Field(ge=2)] = 4
    """Frames per sample."""
    latent_dim: Positive = 5
    num_bins: Annotated[int, Field(ge=2)] = 4
    n_actions: Annotated[int, Field(ge=2, le=MOST_ACTIONS)] = 4
    """Number of latent action codes, a power of two."""
    fps: int | None = None
    """Frames per second of a sample; none is 15 (picodoom: 30). Stride is max(1, 60 // fps)."""
    preload_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Leading fraction of the file that is used."""
    held_out_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Last fraction of the file, never trained on."""
    seed: Seed = 0
    amp: bool = False
    tf32: bool = False
    compile: bool = False
    device: Device = "auto"
    nproc_per_node: Annotated[int, Field(gt=0, le=MOST_RANKS)] = 2
    nnodes: Annotated[int, Field(gt=0, le=MOST_NODES)] = 1
    """Hosts that a chunk spans; each runs a trainer with its node rank."""
    rdzv_endpoint: Annotated[str, Field(pattern=r"^[^\s:]+:[0-9]{1,5}$")] | None = None
    """host:port on node 0 where the hosts' ranks meet; needed with more than one."""
    distributed: Distributed = Distributed()
    wandb: Literal["offline", "online", "disabled"] = "offline"
    wandb_project: str = "worldloop"
    output_root: str | None = None

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        if self.frame_size % self.patch_size:
            raise ValueError(f"frame_size {self.frame_size} is no multiple of patch_size {self.patch_size}")
        if self.frame_size // self.patch_size > MOST_PATCHES:
            raise ValueError(
                f"frame_size {self.frame_size} with patch_size {self.patch_size} makes more than "
                f"{MOST_PATCHES} patches a side"
            )
        if self.latent_dim * math.log2(self.num_bins) > math.log2(MOST_CODES):
            raise ValueError(
                f"num_bins {self.num_bins} to the power of latent_dim {self.latent_dim} is more than "
                f"{MOST_CODES} codes"
            )
        if self.n_actions & (self.n_actions - 1):
            raise ValueError(f"n_actions {self.n_actions} is no power of two")
        if self.nnodes > 1 and self.rdzv_endpoint is None:
            raise ValueError(
                f"nnodes {self.nnodes} needs rdzv_endpoint: host:port of node 0, e.g. node0:29400"
            )
        if self.nnodes > 1 and not self.distributed.use_ddp:
            raise ValueError(f"nnodes {self.nnodes} needs distributed.use_ddp")
        return self


class StageFile(Config):
    """What the three stage files have in common."""

    batch_size_per_gpu: Positive = 8
    gradient_accumulation_steps: Positive = 1
    n_updates: Positive = 1000
    """The stage's target: absolute updates."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Peak of the schedule."""
    log_interval: Positive = 500
    """Updates between checkpoints and visualizations."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    embed_dim: Positive = 128
    num_heads: Positive = 8
    hidden_dim: Positive = 512
    num_blocks: Positive = 4
    checkpoint: str | None = None

    @model_validator(mode="after")
    def _heads(self) -> StageFile:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is no multiple of num_heads {self.num_heads}")
        return self


class VideoTokenizerFile(StageFile):
    """`configs/video_tokenizer.yaml`."""


class LatentActionsFile(StageFile):
    """`configs/latent_actions.yaml`."""

    latent_balance_weight: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the term that keeps all action codes in use and each transition sure of its own; 0 is
    TinyWorlds' loss, which the history records in any case.
    """


class DynamicsFile(StageFile):
    """`configs/dynamics.yaml`."""

    use_actions: bool = True
    video_tokenizer_path: str | None = None
    latent_actions_path: str | None = None
    dynamics_masking: Literal["last_frame", "tinyworlds"] = "last_frame"
    """last_frame: mask as decoding does; tinyworlds: one ratio per batch over all frames."""
    token_cache_gb: Annotated[float, Field(ge=0)] = 10.0
    """Disk for tokens of training windows, all datasets and tokenizers together; 0 keeps none."""
    context_noise: Annotated[float, Field(ge=0, le=1)] = 0.2
    """With last_frame masking, the largest share of a sample's context tokens that come from another sample
    of the batch, so that what decoding got wrong before does not throw it off; drawn per sample.
    """
    use_moe: bool = False
    num_experts: Positive = 4
    top_k_experts: Positive = 2
    moe_aux_loss_coeff: Annotated[float, Field(ge=0)] = 0.01

    @model_validator(mode="after")
    def _experts(self) -> DynamicsFile:
        if self.top_k_experts > self.num_experts:
            raise ValueError(f"top_k_experts {self.top_k_experts} exceeds num_experts {self.num_experts}")
        return self


STAGE_FILES: dict[Stage, type[StageFile]] = {
    "video_tokenizer": VideoTokenizerFile,
    "latent_actions": LatentActionsFile,
    "dynamics": DynamicsFile,
}


class StageConfig(TrainingConfig, DynamicsFile):
    """One stage's complete configuration: training.yaml and the stage's file in one flat table."""

    latent_balance_weight: Annotated[float, Field(ge=0)] = 0.1

    @property
    def effective_batch(self) -> int:
        """Windows per update, all ranks and micro-batches."""
        return self.windows_per_update(self.nproc_per_node * self.nnodes)

    def windows_per_update(self, ranks: int) -> int:
        """Windows per update over the ranks that really run (one without `distributed.use_ddp`)."""
        return self.batch_size_per_gpu * self.gradient_accumulation_steps * ranks


class InferenceConfig(Config):
    """`configs/inference.yaml`."""

    use_actions: bool = True
    actions: Literal["inferred", "random", "given"] = "inferred"
    """Where the actions come from: the clips' own frames, a dice, or `action_codes`."""
    action_codes: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """With `given`, the code that leads to each generated frame; a shorter list begins again."""
    context_window: Positive = 2
    """Frames given to the model before it generates."""
    prediction_horizon: Positive = 1
    """Frames generated per decoding."""
    generation_steps: Positive = 12
    """Frames generated in all."""
    decode_steps: Positive = 16
    """MaskGIT steps per decoding."""
    temperature: Annotated[float, Field(ge=0)] = 0.5
    max_mse: Annotated[float, Field(gt=0)] = 0.03
    clips: Positive = 8
    teacher_forced: bool = False
    sample_index: int | None = None
    """The number of this window alone gates, as the reference's does (`mse_standard`)."""
    seed: Seed = 0
    device: Device = "auto"

    @model_validator(mode="after")
    def _codes(self) -> InferenceConfig:
        if (self.actions == "given") != bool(self.action_codes):
            raise ValueError(
                "actions: given and action_codes belong together; give both or neither, "
                "e.g. actions=given action_codes=[0,1]"
            )
        return self


class RunConfig(Config):
    """A run's configuration: what `RunSpec.configuration` holds."""

    training: TrainingConfig = TrainingConfig()
    video_tokenizer: VideoTokenizerFile = VideoTokenizerFile()
    latent_actions: LatentActionsFile = LatentActionsFile()
    dynamics: DynamicsFile = DynamicsFile()
    inference: InferenceConfig = InferenceConfig()

    def stage(self, stage: Stage) -> StageConfig:
        """The flat configuration of one stage."""
        assert stage in STAGES
        return StageConfig.model_validate(self.training.model_dump() | getattr(self, stage).model_dump())
