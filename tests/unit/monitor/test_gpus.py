"""Reading NVML with a double of the driver's module; the real binding and all its ways: tests/nvml."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from services.monitor.gpus import Nvml, process_tree
from shared.errors import GpuError

KINDS = ("NotSupported", "NoPermission", "NotFound", "FunctionNotFound")
NO_DRIVER = ("LibraryNotFound", "DriverNotLoaded", "LibRmVersionMismatch")


class FakeNvml:
    """`pynvml` with as many GPUs as it is given: each (utilization, pids); none for what cannot be read."""

    class NVMLError(Exception):
        pass

    def __init__(self, *gpus: tuple[int | None, list[int] | None], driver: bool = True) -> None:
        self.gpus, self.driver, self.lost = gpus, driver, set[int]()
        for kind in (*KINDS, *NO_DRIVER):
            setattr(self, f"NVMLError_{kind}", type(kind, (self.NVMLError,), {}))

    def nvmlInit(self) -> None:  # noqa: N802 - the driver's names
        if not self.driver:
            raise self.error("DriverNotLoaded", "Driver Not Loaded")

    def nvmlShutdown(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return f"GPU {handle}"

    nvmlMemory_v2 = 2  # noqa: N815

    def nvmlDeviceGetMemoryInfo(self, handle: int, version: int = 1) -> Any:  # noqa: N802
        self.check(handle)
        return SimpleNamespace(used=100 + handle, total=1000)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        self.check(handle)
        if self.gpus[handle][0] is None:
            raise self.error("NotSupported")
        return SimpleNamespace(gpu=self.gpus[handle][0])

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: int) -> Any:  # noqa: N802
        self.check(handle)
        pids = self.gpus[handle][1]
        if pids is None:
            raise self.error("NoPermission")
        return [SimpleNamespace(pid=pid) for pid in pids]

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:  # noqa: N802
        raise self.error("NotSupported")

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: int) -> int:  # noqa: N802
        raise AssertionError("it is not partitioned")

    def check(self, handle: int) -> None:
        if handle in self.lost:
            raise self.NVMLError("GPU is lost")

    def error(self, kind: str, text: str = "") -> Exception:
        made: Exception = getattr(self, f"NVMLError_{kind}")(text)
        return made


def tree(pid: int) -> set[int]:
    return {pid, pid + 1}


def opened(library: FakeNvml) -> Nvml:
    return Nvml(lambda: library, tree)


def test_two_gpus_are_read_with_the_launchers_processes_on_them() -> None:
    first, second = opened(FakeNvml((97, [43]), (3, [9, 7]))).read(42)
    assert (first.index, first.utilization, first.memory_bytes, first.ours) == (0, 97, 100, True)
    assert (second.index, second.pids, second.memory_total_bytes, second.ours) == (1, [7, 9], 1000, False)


def test_no_gpu_is_no_error() -> None:
    gpus = opened(FakeNvml())
    assert (gpus.read(42), gpus.problem) == ([], None)


def test_what_a_gpu_does_not_offer_is_none() -> None:
    (only,) = opened(FakeNvml((None, None))).read(42)
    assert (only.utilization, only.pids, only.ours, only.problem) == (None, [], False, None)


def test_a_missing_driver_says_so_until_it_comes() -> None:
    library = FakeNvml((1, []), driver=False)
    gpus = opened(library)
    assert "Driver Not Loaded" in str(gpus.problem)
    with pytest.raises(GpuError, match="Driver Not Loaded"):
        gpus.read(42)
    library.driver = True
    assert [gpu.utilization for gpu in gpus.read(42)] == [1]
    assert gpus.problem is None


def test_a_missing_binding_says_so() -> None:
    def load() -> Any:
        raise GpuError("it is not installed")

    gpus = Nvml(load, tree)
    assert gpus.problem == "it is not installed"
    with pytest.raises(GpuError, match="it is not installed"):
        gpus.read(42)


def test_a_lost_gpu_does_not_hide_the_other_and_all_lost_is_an_error() -> None:
    library = FakeNvml((1, []), (2, []))
    gpus = opened(library)
    library.lost = {0}
    assert [(gpu.lost, gpu.problem, gpu.utilization) for gpu in gpus.read(42)] == [
        (True, "GPU is lost", None),
        (False, None, 2),
    ]
    library.lost = {0, 1}
    with pytest.raises(GpuError, match="GPU 1: GPU is lost"):
        gpus.read(42)


def test_the_process_tree_is_of_the_living() -> None:
    assert os.getpid() in process_tree(os.getpid())
    assert process_tree(2**22 + 1) == {2**22 + 1}
