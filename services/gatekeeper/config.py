"""The gatekeeper's section of `policy.yaml`: gates, ladders, budgets, time limits.

The numbers here are the defaults; profiles set chunks, floors and whatever else a parameter set needs.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from shared.config import Config, Positive
from shared.events import STAGES, InferenceDone, Stage

Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[float, Field(ge=0)]
Report = Literal["loop", "inference", "retrospective", "git", "wandb"]

METRICS = frozenset(
    name
    for name, field in InferenceDone.model_fields.items()
    if field.annotation in (float | None, int | None)
)
"""Numbers of the inference test that `require` may name."""


class PerStage(Config):
    """A whole number for each stage."""

    video_tokenizer: Positive
    latent_actions: Positive
    dynamics: Positive

    def of(self, stage: Stage) -> int:
        """The stage's number."""
        assert stage in STAGES
        return int(getattr(self, stage))


class Chunks(PerStage):
    """Updates between two gates."""

    video_tokenizer: Positive = 5000
    latent_actions: Positive = 2000
    dynamics: Positive = 4000


class Floors(PerStage):
    """Smallest `batch_size_per_gpu` a stage may be retuned to."""

    video_tokenizer: Positive = 1
    latent_actions: Positive = 1
    dynamics: Positive = 1


class VideoTokenizerLimits(Config):
    """Numeric verdict of the video tokenizer."""

    continue_final_loss: Number = 0.01
    continue_late_over_mid: Number = 1.05
    watch_final_loss: Number = 0.02


class LatentActionsLimits(Config):
    """Numeric verdict of latent actions."""

    continue_final_loss: Number = 0.06
    continue_unique_actions: Number = 2
    continue_action_entropy: Number = 0.4
    """Nats."""
    watch_final_loss: Number = 0.1
    watch_unique_actions: Number = 2
    collapse_unique_actions: Number = 1
    collapse_action_entropy: Number = 0
    """At or below both, the collapse is severe."""


class DynamicsLimits(Config):
    """Numeric verdict of dynamics."""

    continue_late_over_mid: Number = 1.02
    continue_delta: float = 0.2
    """Mean of the last 10 % minus mean of the first 10 %."""
    continue_final_loss: Number = 5.0
    watch_late_over_mid: Number = 1.08
    watch_delta: float = 0.5
    collapse_final_loss: Number = 6.0
    collapse_delta: float = 0.0
    """At or above both, the collapse is severe."""


class Limits(Config):
    """Thresholds of check 6."""

    video_tokenizer: VideoTokenizerLimits = VideoTokenizerLimits()
    latent_actions: LatentActionsLimits = LatentActionsLimits()
    dynamics: DynamicsLimits = DynamicsLimits()


class NonFinite(Config):
    """Detector: the loss is no number any more."""

    enabled: bool = True
    tail_rows: Positive = 3
    """Newest rows whose loss is not finite that fail the gate."""


class LossSpike(Config):
    """Detector: the loss left the level it had reached. Rolls back to the accepted gate at a lower rate."""

    enabled: bool = True
    min_noise: Number = 8.0
    """Above the lowest level by this many times the spread of single rows, ..."""
    min_ratio: Annotated[float, Field(gt=1)] = 1.3
    """... and by this factor."""
    learning_rate_factor: Annotated[float, Field(gt=0, le=1)] = 0.5


class Stagnation(Config):
    """Detector: the stage learns nothing."""

    enabled: bool = True
    min_drop: Share = 0.05
    """Share of the level it began with by which the loss must have fallen."""
    from_share: Share = 0.25
    """Share of the stage target from where on it binds."""
    in_a_row: Positive = 2
    """Such gates in a row that make a retune; before that the gate is `watch`."""


class Throughput(Config):
    """Detector: updates take longer than they did. Flags, never fails."""

    enabled: bool = True
    max_slowdown: Annotated[float, Field(gt=1)] = 2.0


class Detectors(Config):
    """Part of check 6 beyond the limits of each stage."""

    non_finite: NonFinite = NonFinite()
    loss_spike: LossSpike = LossSpike()
    stagnation: Stagnation = Stagnation()
    throughput: Throughput = Throughput()


class Visual(Config):
    """Thresholds of check 7, and for which stages it binds."""

    binds: tuple[Stage, ...] = ("dynamics",)
    min_contrast: Number = 0.25
    max_flat_blocks: Share = 0.6
    max_striping: Share = 0.25
    min_edges: Number = 0.12
    max_noise: Share = 0.2
    max_frozen: Share = 0.55
    from_step: Count = 10
    """Updates done from which on a picture is judged; before, it is noise and nothing else could be."""
    in_a_row: Positive = 2
    """Failed gates in a row that make a retune; before that the gate is `watch`."""


class Ladder(Config):
    """What a failed gate changes, in the order of the rungs."""

    learning_rate_factor: Annotated[float, Field(gt=0, le=1)]
    """Rung `learning_rate`."""
    gradient_accumulation_change: int = 0
    """Rung `gradient_accumulation_steps`; never below 1."""
    log_interval_floor: Positive
    """Rung `log_interval`: half, not below min(floor, its own value)."""
    extend_target: bool = False
    """Rung `target`: one chunk more if the loss is still dropping, at most `max_retries` times."""
    halve_chunk: bool = False
    """Rung `chunk`: half, not below the log interval; the full chunk is back after an accepted gate."""


class VideoTokenizerLadder(Ladder):
    """The video tokenizer's."""

    learning_rate_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    gradient_accumulation_change: int = 1
    log_interval_floor: Positive = 500


class LatentActionsLadder(Ladder):
    """That of latent actions."""

    learning_rate_factor: Annotated[float, Field(gt=0, le=1)] = 0.8
    log_interval_floor: Positive = 250
    extend_target: bool = True


class DynamicsLadder(Ladder):
    """That of dynamics."""

    learning_rate_factor: Annotated[float, Field(gt=0, le=1)] = 0.2
    gradient_accumulation_change: int = -1
    log_interval_floor: Positive = 500
    halve_chunk: bool = True


class Ladders(Config):
    """The ladder of each stage."""

    video_tokenizer: VideoTokenizerLadder = VideoTokenizerLadder()
    latent_actions: LatentActionsLadder = LatentActionsLadder()
    dynamics: DynamicsLadder = DynamicsLadder()

    def of(self, stage: Stage) -> Ladder:
        """The stage's ladder."""
        ladder = getattr(self, stage)
        assert isinstance(ladder, Ladder)
        return ladder


class CommandTimeouts(Config):
    """Seconds without an answer, or sign of a service working on it, until a command is sent again."""

    chunk: Seconds = 120.0
    """Until `chunk_started`; after it there is no limit."""
    evaluate_inference: Seconds = 120.0
    write_reports: Seconds = 120.0


class Bounds(Config):
    """What a number of the inference test must be; a number that is missing fails."""

    above: float | None = None
    """Strictly greater."""
    min: float | None = None
    """At least."""
    max: float | None = None
    """At most."""

    @model_validator(mode="after")
    def _some(self) -> Bounds:
        if self.above is None and self.min is None and self.max is None:
            raise ValueError("give at least one of above, min, max")
        return self


class Policy(Config):
    """How gates are decided and what happens then."""

    chunk: Chunks = Chunks()
    min_batch_size: Floors = Floors()
    enforce_dual_gpu_check: bool = True

    limits: Limits = Limits()
    absolute_loss_from: Share = 0.0
    """Fraction of the stage target from where on the absolute loss limits bind."""
    detectors: Detectors = Detectors()
    visual: Visual = Visual()

    ladder_mode: Literal["combined", "one_rung"] = "combined"
    ladders: Ladders = Ladders()
    batch_size_divisor: Annotated[int, Field(ge=2)] = 2
    """What running out of memory or a runtime error does to `batch_size_per_gpu`."""
    min_learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    """No ladder goes below it."""

    max_retries: Count = 5
    """Failed gates per stage."""
    retry_budget: Literal["progress", "total"] = "progress"
    """progress: an accepted gate beyond the stage's highest accepted step resets the retries; total: nothing
    does but an operator's resume.
    """
    max_restarts: Count = 2
    """Restarts per stage."""

    evidence_timeout_sec: Seconds = 60.0
    command_timeout_sec: CommandTimeouts = CommandTimeouts()
    max_command_retries: Count = 3

    require: dict[str, Bounds] = Field(default_factory=dict)
    """Number of the inference test -> what it must be, beside `max_mse` of inference.yaml."""
    max_inference_retries: Count = 2
    retry_chunk: Positive = 2000
    """Updates dynamics is given after a failed inference gate."""
    retry_init_learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    retry_lr_decay: Annotated[float, Field(gt=0, le=1)] = 0.7

    required_reports: tuple[Report, ...] = ("loop", "git", "wandb", "retrospective", "inference")
    """Kinds without which a run has not passed; without trained stages `loop` is not needed."""

    @model_validator(mode="after")
    def _metrics(self) -> Policy:
        if unknown := sorted(set(self.require) - METRICS):
            raise ValueError(
                f"require: {', '.join(unknown)}: no such number; one of {', '.join(sorted(METRICS))}"
            )
        return self
