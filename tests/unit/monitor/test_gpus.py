"""Reading NVML, with a double of the driver's module."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from services.monitor.gpus import Nvml, process_tree
from shared.errors import GpuError


class FakeNvml:
    """`pynvml` with as many GPUs as it is given: each (utilization, pids); none for what cannot be read."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):  # noqa: N801 - the driver's name
        pass

    class NVMLError_NoPermission(NVMLError):  # noqa: N801
        pass

    def __init__(self, *gpus: tuple[int | None, list[int] | None], driver: bool = True) -> None:
        self.gpus, self.driver, self.lost = gpus, driver, False

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        if self.lost:
            raise self.NVMLError("GPU is lost")
        return SimpleNamespace(used=100 + handle, total=1000)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        if self.gpus[handle][0] is None:
            raise self.NVMLError_NotSupported
        return SimpleNamespace(gpu=self.gpus[handle][0])

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> Any:  # noqa: N802
        pids = self.gpus[handle][1]
        if pids is None:
            raise self.NVMLError_NoPermission
        return [SimpleNamespace(pid=pid) for pid in pids]


def tree(pid: int) -> set[int]:
    return {pid, pid + 1}


def test_two_gpus_are_read_with_the_launchers_processes_on_them() -> None:
    first, second = Nvml(FakeNvml((97, [43]), (3, [9, 7])), tree).read(42)
    assert (first.index, first.utilization, first.memory_bytes, first.ours) == (0, 97, 100, True)
    assert (second.index, second.pids, second.memory_total_bytes, second.ours) == (1, [7, 9], 1000, False)


def test_no_gpu_is_no_error() -> None:
    assert Nvml(FakeNvml(), tree).read(42) == []


def test_what_a_gpu_does_not_offer_is_none() -> None:
    (only,) = Nvml(FakeNvml((None, None)), tree).read(42)
    assert (only.utilization, only.pids, only.ours) == (None, [], False)


def test_a_missing_driver_says_so() -> None:
    with pytest.raises(GpuError, match="Driver Not Loaded"):
        Nvml(FakeNvml(driver=False), tree)


def test_a_gpu_that_falls_off_the_bus_says_so() -> None:
    library = FakeNvml((1, []))
    gpus = Nvml(library, tree)
    library.lost = True
    with pytest.raises(GpuError, match="GPU is lost"):
        gpus.read(42)


def test_the_process_tree_is_of_the_living() -> None:
    assert os.getpid() in process_tree(os.getpid())
    assert process_tree(2**22 + 1) == {2**22 + 1}
