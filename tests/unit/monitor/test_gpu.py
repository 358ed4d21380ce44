"""From readings to evidence."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from services.monitor.config import Policy
from services.monitor.core.gpu import Sample, cpu_evidence, next_pause, no_evidence, nvml_evidence
from shared.events import ChunkDone, GpuEvidence

Make = Callable[..., Sample]
POLICY = Policy(monitor_interval_sec=5, gpu_util_threshold=1, gpu_required_samples=2)


@pytest.fixture
def measure(done: Callable[..., ChunkDone]) -> Callable[..., GpuEvidence]:
    def measured(samples: list[Sample], *, until: float = 20, world_size: int = 2) -> GpuEvidence:
        chunk = done(device="cuda", world_size=world_size)
        return nvml_evidence(chunk, samples, POLICY, started=0, ended=until, file="Logs/gpu/x.jsonl")

    return measured


def test_two_gpus_at_work_are_dual(sample: Make, measure: Callable[..., GpuEvidence]) -> None:
    found = measure([sample(t, (90, True), (80, True)) for t in (1, 6, 11, 16)])
    assert found.dual_gpu_ok
    assert found.util_ok
    assert found.process_ok
    assert (found.decided_by, found.samples, found.observed) == ("utilization", 4, True)
    first = found.gpus[0]
    assert (first.samples, first.active_samples, first.max_utilization, first.mean_utilization) == (
        4,
        4,
        90,
        90,
    )
    assert (first.max_memory_bytes, first.ours) == (1000, True)


def test_an_idle_second_gpu_with_our_process_on_it_is_not_active(
    sample: Make, measure: Callable[..., GpuEvidence]
) -> None:
    found = measure([sample(t, (90, True), (0, True)) for t in (1, 6, 11, 16)])
    assert found.process_ok
    assert not found.dual_gpu_ok
    assert found.observed
    assert found.decided_by == "utilization"


def test_one_active_reading_is_not_enough(sample: Make, measure: Callable[..., GpuEvidence]) -> None:
    idle = [sample(t, (90, True), (0, True)) for t in (1, 6, 11)]
    assert not measure([*idle, sample(16, (90, True), (50, True))]).dual_gpu_ok
    assert measure([*idle, sample(16, (90, True), (1, True)), sample(18, (90, True), (1, True))]).dual_gpu_ok


def test_where_utilization_cannot_be_read_processes_decide(
    sample: Make, measure: Callable[..., GpuEvidence]
) -> None:
    found = measure([sample(t, (None, True), (None, True)) for t in (1, 6, 11, 16)])
    assert found.dual_gpu_ok
    assert (found.decided_by, found.util_ok) == ("processes", None)
    assert found.gpus[0].max_utilization is None
    apart = [sample(1, (None, True), (None, False)), sample(6, (None, False), (None, True))]
    assert not measure(apart, until=10).dual_gpu_ok, "never on two GPUs at once"


def test_foreign_pids_do_not_matter_where_utilization_is_readable(
    sample: Make, measure: Callable[..., GpuEvidence]
) -> None:
    found = measure([sample(t, (90, False), (80, False)) for t in (1, 6, 11, 16)])
    assert found.dual_gpu_ok
    assert not found.process_ok


def test_one_gpu_is_never_dual(sample: Make, measure: Callable[..., GpuEvidence]) -> None:
    assert not measure([sample(t, (90, True)) for t in (1, 6, 11, 16)]).dual_gpu_ok


def test_gaps_that_hide_the_answer_are_not_observed(
    sample: Make, measure: Callable[..., GpuEvidence]
) -> None:
    found = measure([sample(1, (90, True), (0, True)), sample(59, (90, True), (0, True))], until=60)
    assert not found.observed
    assert found.longest_gap_sec == 58
    assert "58 s" in str(found.problem)


def test_gaps_at_the_beginning_and_the_end_count(sample: Make, measure: Callable[..., GpuEvidence]) -> None:
    assert measure([sample(58, (90, True), (0, True))], until=60).longest_gap_sec == 58
    assert measure([sample(2, (90, True), (0, True))], until=60).longest_gap_sec == 58
    assert not measure([], until=4).observed, "no reading at all"


def test_gaps_do_not_matter_once_both_were_seen_at_work(
    sample: Make, measure: Callable[..., GpuEvidence]
) -> None:
    found = measure([sample(t, (90, True), (80, True)) for t in (1, 3)], until=600)
    assert found.dual_gpu_ok
    assert found.observed


def test_with_one_rank_there_is_nothing_to_miss(measure: Callable[..., GpuEvidence]) -> None:
    assert measure([], until=600, world_size=1).observed


def lose(sample: Sample, index: int) -> Sample:
    """The same readings, but nothing from one GPU."""
    changes = {"lost": True, "problem": "GPU is lost", "utilization": None, "ours": False}
    gpus = [gpu.model_copy(update=changes if gpu.index == index else {}) for gpu in sample.gpus]
    return sample.model_copy(update={"gpus": gpus})


def test_a_gpu_lost_from_the_start_does_not_make_processes_decide(
    sample: Make, measure: Callable[..., GpuEvidence]
) -> None:
    found = measure([lose(sample(t, (90, True), (80, True)), 1) for t in (1, 6, 11, 16)])
    assert (found.dual_gpu_ok, found.decided_by, found.observed) == (False, "utilization", True)
    assert [gpu.index for gpu in found.gpus] == [0]
    assert found.problem == "GPU 1 could not be read: GPU is lost"


def test_a_gpu_lost_on_the_way_counts_with_what_was_read(
    sample: Make, measure: Callable[..., GpuEvidence]
) -> None:
    working = [sample(t, (90, True), (80, True)) for t in (1, 6)]
    found = measure([*working, *(lose(sample(t, (90, True), (80, True)), 1) for t in (11, 16))])
    assert found.dual_gpu_ok
    assert [(gpu.samples, gpu.active_samples) for gpu in found.gpus] == [(4, 4), (2, 2)]
    assert "GPU 1" in str(found.problem)


def test_cpu_ranks_are_evidence_of_their_own(done: Callable[..., ChunkDone]) -> None:
    found = cpu_evidence(done())
    assert (found.evidence, found.dual_gpu_ok, found.cpu_seconds) == ("cpu_ranks", None, [2.5, 2.4])


def test_cuda_without_nvml_is_no_evidence(done: Callable[..., ChunkDone]) -> None:
    found = no_evidence(done(device="cuda"), "the driver is missing")
    assert (found.evidence, found.dual_gpu_ok, found.observed) == ("none", None, True)
    assert found.problem == "the driver is missing"


def test_a_chunks_first_seconds_are_read_more_densely() -> None:
    assert next_pause(0, 5) == 0.25
    assert next_pause(4, 5) == 1
    assert next_pause(1000, 5) == 5
    assert next_pause(1000, 0.1) == 0.1
