"""A chunk's evidence, from its files and samples."""

from __future__ import annotations

from services.monitor.config import Policy
from services.monitor.core import gpu, history, visual
from services.monitor.core.chunks import Chunk
from services.monitor.files import changed, read_history, read_samples
from shared.bundle import Bundle
from shared.errors import BundleError
from shared.events import ArtifactEvidence, ChunkDone, GpuEvidence, HistoryStats, VisualNumbers
from shared.sheets import read_sheet, sheet_step


def gpu_evidence(
    done: ChunkDone, chunk: Chunk | None, bundle: Bundle, policy: Policy, *, ended: float, problem: str | None
) -> GpuEvidence:
    """What the GPUs, or the CPU ranks, did.

    Args:
        done: The chunk's end.
        chunk: Its beginning; none when the log has no `chunk_started` of it.
        bundle: Where the samples lie.
        policy: How GPUs are judged active.
        ended: Unix time of the end.
        problem: Why NVML cannot be used, none if it can.
    """
    if done.device != "cuda":
        return gpu.cpu_evidence(done)
    path = bundle.gpu_samples(done.stage, done.attempt)
    samples = read_samples(path)
    if problem is not None and not samples:
        return gpu.no_evidence(done, problem)
    return gpu.nvml_evidence(
        done,
        samples,
        policy,
        started=chunk.started if chunk is not None else ended - done.seconds,
        ended=ended,
        file=bundle.relative(path) if samples else None,
    )


def artifact_evidence(done: ChunkDone, chunk: Chunk | None, bundle: Bundle) -> ArtifactEvidence:
    """Measurements on history and newest sheet; what cannot be measured is a problem, not an error."""
    stats, history_problem = _history(done, chunk, bundle)
    numbers, visual_problem = _visual(done, bundle)
    return ArtifactEvidence(
        run_id=done.run_id,
        stage=done.stage,
        attempt=done.attempt,
        history=stats,
        history_problem=history_problem,
        visual=numbers,
        visual_problem=visual_problem,
    )


def _history(done: ChunkDone, chunk: Chunk | None, bundle: Bundle) -> tuple[HistoryStats | None, str | None]:
    if done.history is None:
        return None, "the chunk left no history"
    try:
        columns = read_history(bundle.resolve(done.history))
    except BundleError as error:
        return None, str(error)
    stats = history.statistics(
        columns,
        file=done.history,
        start_step=done.start_step,
        target_step=done.target_step,
        frames_per_update=chunk.frames_per_update if chunk is not None else None,
    )
    return stats, None


def _visual(done: ChunkDone, bundle: Bundle) -> tuple[VisualNumbers | None, str | None]:
    if done.visualization is None:
        return None, "the chunk left no visualization"
    try:
        path = bundle.resolve(done.visualization)
        step = sheet_step(path)
        if step is None or changed(path) is None:
            return None, f"{path}: " + ("its name has no step" if step is None else "there is no such sheet")
        pictures = read_sheet(path)
    except BundleError as error:
        return None, str(error)
    found = visual.numbers(
        done.stage,
        pictures.originals,
        pictures.generated,
        sheet=done.visualization,
        step=step,
        fresh=step > done.start_step,  # older ones were moved aside; file times go by a clock that may step
    )
    return found, None
