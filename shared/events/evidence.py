"""What the monitor measured on a chunk: its GPUs, its history, its pictures."""

from __future__ import annotations

from typing import ClassVar, Literal

from shared.events.base import BundlePath, Value
from shared.events.chunk import ChunkEvent


class WindowStats(Value):
    """Means of a column over windows of a chunk's history."""

    early: float
    mid: float
    late: float
    """Means of the thirds."""
    first10: float
    last10: float
    """Means of the first and last 10 % (at least one row)."""
    delta: float
    """last10 - first10: rising loss is positive."""


class LossLevels(Value):
    """Medians of the loss over equal blocks of a chunk's rows: single bad batches do not move them."""

    first: float
    """Of the chunk's first few rows."""
    lowest: float
    """Lowest of the blocks before the last."""
    last: float
    """Of the last block."""
    noise: float
    """Spread of single rows about their block's median: 1.4826 * MAD, median over the blocks."""


class HistoryStats(Value):
    """Statistics of the rows a chunk added to its stage's history."""

    file: BundlePath
    rows: int
    dropped_rows: int
    """Rows without a finite loss."""
    non_finite_rows: int = 0
    """Those of them that have a loss, which is not finite; the others have none."""
    non_finite_tail: int = 0
    """Those of them after the last finite loss."""
    first_step: int | None
    last_step: int | None
    covered_steps: int
    """Updates of the chunk that have a row."""
    final_loss: float | None
    min_loss: float | None
    median_loss: float | None
    loss: WindowStats | None
    levels: LossLevels | None = None
    """None for too few rows."""
    unique_actions: float | None = None
    action_entropy: float | None = None
    """Last value, nats of the distribution of codes within a batch."""
    codebook_usage: float | None = None
    """Last value, share of codes in use, 0..1."""
    learning_rate: float | None = None
    frames_per_sec: float | None = None
    update_seconds: float | None = None
    """Median time of an update; pauses for checkpoints do not move it."""
    slowdown: float | None = None
    """The same over the last third of the chunk, divided by that over the first."""


class VisualNumbers(Value):
    """Measurements on the newest visualization: generated frames compared with their originals."""

    sheet: BundlePath
    step: int
    fresh: bool
    """Written after the chunk started."""
    frames: int
    contrast: float
    """Spread of generated over original coarse structure; near 0 is near-constant output."""
    flat_blocks: float
    """Share of the detailed squares of the originals that came out as one flat colour, 0..1."""
    striping: float
    """Share of the generated energy that repeats at one frequency, beyond the original's, 0..1."""
    edges: float
    """Edge strength of generated over original frames at the originals' edges."""
    noise: float = 0.0
    """Share of the generated energy that is fine detail beyond the original's, 0..1."""
    frozen: float = 0.0
    """How much all generated frames show what moved where one same original has it, 0..1."""


class GpuSummary(Value):
    """One GPU over a chunk."""

    index: int
    samples: int
    active_samples: int
    """Samples at or above the utilization threshold."""
    max_utilization: float | None
    """Percent; none where it cannot be read."""
    mean_utilization: float | None
    max_memory_bytes: int
    ours: bool
    """The launcher's process tree was seen on it."""


class GpuEvidence(ChunkEvent):
    """What the GPUs, or the CPU ranks, did during the chunk."""

    name: ClassVar[str] = "gpu_evidence"
    evidence: Literal["nvml", "cpu_ranks", "none"]
    observed: bool = True
    """False when samples are missing and those kept cannot show `dual_gpu_ok`."""
    dual_gpu_ok: bool | None
    process_ok: bool | None = None
    util_ok: bool | None = None
    decided_by: Literal["utilization", "processes"] | None = None
    samples: int = 0
    longest_gap_sec: float = 0.0
    gpus: list[GpuSummary] = []
    cpu_seconds: list[float] = []
    """Per rank, for `cpu_ranks`."""
    problem: str | None = None
    file: BundlePath | None = None
    """The samples."""


class ArtifactEvidence(ChunkEvent):
    """Measurements on the chunk's files; no judgement."""

    name: ClassVar[str] = "artifact_evidence"
    history: HistoryStats | None
    history_problem: str | None = None
    visual: VisualNumbers | None
    visual_problem: str | None = None
