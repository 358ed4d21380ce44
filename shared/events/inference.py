"""The inference test and its numbers."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from shared.events.base import BundlePath, Command, Document, Event, Service, Stage


class EvaluateInference(Command):
    """Run the standard inference test on the selected checkpoints."""

    name: ClassVar[str] = "evaluate_inference"
    service: ClassVar[Service] = "inference"
    inference_try: int = Field(ge=1)
    retry: int = 0
    checkpoints: dict[Stage, BundlePath]
    settings: Document
    """The resolved inference configuration (shared.config.InferenceConfig)."""

    def id_parts(self) -> tuple[object, ...]:
        """Try and sending."""
        return (self.inference_try, self.retry)


class InferenceDone(Event):
    """All numbers of the inference test. MSE in [0, 1] pixels over generated frames only."""

    name: ClassVar[str] = "inference_done"
    inference_try: int
    retry: int = 0
    ok: bool
    """The test ran to its end; says nothing about quality."""
    problem: str | None = None
    mode: Literal["autoregressive", "teacher-forced"] = "autoregressive"
    checkpoints: dict[Stage, BundlePath] = {}
    """The three that were used."""
    picture: BundlePath | None = None
    video: BundlePath | None = None
    preview: BundlePath | None = None
    """The same, animated, for where no video plays."""
    video_problem: str | None = None
    """Why the video or the preview was not written; never fails the test."""
    actions: Literal["inferred", "random", "given", "none"] = "inferred"
    """What told the model where to go."""
    gated_by: Literal["mse", "mse_standard"] = "mse"
    """Which number the limit holds for: `mse_standard` when one clip was asked for, as the reference does."""
    frames_expected: int = 0
    frames_inferred: int = 0
    clips: int = 0
    held_out: bool = False
    mse: float | None = None
    mse_low: float | None = None
    mse_high: float | None = None
    """95 % interval over clips."""
    mse_standard: float | None = None
    """The reference's number: one clip, random actions, copied context averaged in."""
    mse_per_frame: list[float] = []
    persistence_mse: float | None = None
    persistence_per_frame: list[float] = []
    mean_frame_mse: float | None = None
    mean_frame_per_frame: list[float] = []
    skill: float | None = None
    """1 - mse / persistence_mse."""
    skill_low: float | None = None
    skill_high: float | None = None
    skill_per_frame: list[float] = []
    mean_frame_skill: float | None = None
    """Skill of the mean frame of the training part."""
    psnr: float | None = None
    psnr_low: float | None = None
    psnr_high: float | None = None
    psnr_per_frame: list[float] = []
    ssim: float | None = None
    ssim_low: float | None = None
    ssim_high: float | None = None
    ssim_per_frame: list[float] = []
    tokenizer_mse: float | None = None
    tokenizer_psnr: float | None = None
    """Reconstruction of the same frames: the ceiling."""
    tokenizer_per_frame: list[float] = []
    """Its MSE."""
    delta_psnr: float | None = None
    """PSNR with inferred minus PSNR with random actions among codes in use, dB."""
    delta_psnr_low: float | None = None
    delta_psnr_high: float | None = None
    delta_psnr_per_frame: list[float] = []
    """Up to the frame that `delta_psnr` is taken at, the last of them."""
    motion_ratio: float | None = None
    motion_ratio_per_frame: list[float] = []
    """From the second generated frame on; empty where one of the targets does not move."""
    seen_share: float | None = None
    """Share of target frames that occur exactly in the training part."""
    seen_per_frame: list[float] = []
    intervals_per_frame: dict[str, list[tuple[float, float]]] = {}
    """Number -> its 95 % interval over clips at each frame; empty for a single clip."""
    actions_in_use: int | None = None
    """Codes that occur over the held-out part."""
    actions_total: int | None = None
    seconds: float = 0.0

    @property
    def gating(self) -> float | None:
        """The number that the gate's limit holds for."""
        return self.mse if self.gated_by == "mse" else self.mse_standard

    def id_parts(self) -> tuple[object, ...]:
        """Try and sending."""
        return (self.inference_try, self.retry)
