"""What is to be done: a run, as its operator specified it, and a chunk of it, as the gatekeeper plans it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from shared.events.base import BundlePath, Document, Stage, Value


class Schedule(Value):
    """One segment of the learning-rate schedule: warm-up, then cosine to 1 % of the peak."""

    peak: float = Field(gt=0)
    """Learning rate after warm-up."""
    start_step: int = Field(ge=0)
    """Update at which the segment begins (0 but for a segment after a failed inference gate)."""
    end_step: int = Field(gt=0)
    """Update at which the segment ends: the stage's target, not the chunk's."""


class ChunkPlan(Value):
    """Everything the trainer needs for one chunk; (run_id, stage, attempt) names it."""

    stage: Stage
    attempt: int = Field(ge=1)
    """Rises with every plan of the stage and is never reset."""
    start_step: int = Field(ge=0)
    """Updates done before the chunk."""
    target_step: int = Field(ge=0)
    """Absolute updates done when the chunk is over."""
    schedule: Schedule
    parameters: Document
    """The stage's complete resolved configuration (shared.config.StageConfig), knobs as retuned."""
    resume_from: BundlePath | None = None
    """Checkpoint directory to go on from; none starts fresh."""
    upstream: dict[Stage, BundlePath] = {}
    """Checkpoints of earlier stages that this stage reads."""
    ends_stage: bool = False
    """The chunk reaches the stage's target: the warm group ends with it."""
    overshoot: int = Field(default=0, ge=0)
    """Updates past the target at which it may end: 0 but for a checkout, which saves at log intervals."""


class CheckoutSpec(Value):
    """A TinyWorlds checkout that trains: its scripts, unmodified."""

    directory: str
    """Absolute path of the repository on the trainer's host; nothing is written there."""
    python: str
    """Absolute path of the interpreter that its scripts run with."""
    torchrun: str | None = None
    """Absolute path of its torchrun; none is `python -m torch.distributed.run`."""
    inference: Literal["own", "checkout"] = "own"
    """Who runs the inference test: worldloop's rollout, or the checkout's `scripts/run_inference.py`."""


class RunSpec(Value):
    """What a run is to do: resolved before anything starts."""

    bundle: str = Field(pattern=r"^(/|[A-Za-z]:[/\\]|\\\\)[^\x00]*$")
    """Absolute path of the bundle where the run was started; a service's own output root goes before it."""
    run_name: str = Field(pattern=r"^[0-9]{4}(_[0-9]{2}){5}_[a-z0-9_]+$")
    """YYYY_MM_DD_HH_MM_SS_<game>."""
    profile: str
    configuration: Document
    """training, video_tokenizer, latent_actions, dynamics, inference: each complete."""
    policy: Document
    """One section per service: gatekeeper, trainer, monitor, inference, reporter."""
    origins: dict[str, str]
    """Dotted key -> where its value came from (flag, checkpoint, profile, file)."""
    stages: list[Stage]
    """Stages to train, in order; empty runs inference and reports only."""
    inference: bool = True
    """Whether the run goes on to the inference gate."""
    checkpoints: dict[Stage, BundlePath] = {}
    """Given checkpoints, already copied into the bundle: of a trained stage its start, else what it uses."""
    given_steps: dict[Stage, int] = {}
    """Updates done in each of `checkpoints`."""
    observe: bool = False
    """Decide and record, never intervene."""
    backend: Literal["own", "checkout"] = "own"
    """Who trains: the built-in trainer, or a TinyWorlds checkout's own scripts."""
    checkout: CheckoutSpec | None = None
    """Which checkout; there whenever `backend` is `checkout`."""
    resumed_from: str | None = None
    """Run id this one goes on from."""
