"""Reading GPUs through NVML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import psutil

from services.monitor.core.gpu import GpuReading
from shared.errors import GpuError


class Gpus(Protocol):
    """The GPUs of this machine."""

    def read(self, launcher_pid: int) -> list[GpuReading]:
        """All GPUs now, and which of them the launcher's process tree is on.

        Raises:
            GpuError: The driver went away.
        """
        ...


class Nvml:
    """NVML behind `Gpus`.

    Args:
        library: The module `pynvml`, or a double with its functions.
        tree: Pids of a process and its descendants.

    Raises:
        GpuError: The driver is missing or refuses.
    """

    def __init__(self, library: Any, tree: Callable[[int], set[int]]) -> None:
        self._nvml, self._tree = library, tree
        try:
            library.nvmlInit()
            self._handles = [
                library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())
            ]
        except library.NVMLError as error:
            raise GpuError(f"NVML: {error}") from error

    def read(self, launcher_pid: int) -> list[GpuReading]:
        """See `Gpus`."""
        ours = self._tree(launcher_pid)
        try:
            return [self._gpu(index, handle, ours) for index, handle in enumerate(self._handles)]
        except self._nvml.NVMLError as error:
            raise GpuError(f"NVML: {error}") from error

    def _gpu(self, index: int, handle: Any, ours: set[int]) -> GpuReading:
        memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        pids = self._readable(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(handle), [])
        numbers = sorted(int(process.pid) for process in pids)
        return GpuReading(
            index=index,
            utilization=self._readable(
                lambda: float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu), None
            ),
            memory_bytes=int(memory.used),
            memory_total_bytes=int(memory.total),
            pids=numbers,
            ours=not ours.isdisjoint(numbers),
        )

    def _readable(self, read: Callable[[], Any], otherwise: Any) -> Any:
        """What the driver says, `otherwise` where this GPU does not offer it (MIG, permissions)."""
        try:
            return read()
        except (self._nvml.NVMLError_NotSupported, self._nvml.NVMLError_NoPermission):
            return otherwise


def open_nvml() -> Nvml:
    """The GPUs of this machine.

    Raises:
        GpuError: There is no NVML here.
    """
    try:
        import pynvml
    except ImportError as error:
        raise GpuError("the package nvidia-ml-py is not installed") from error
    return Nvml(pynvml, process_tree)


def process_tree(pid: int) -> set[int]:
    """The process and its descendants, as far as they are alive and on this machine."""
    try:
        return {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    except psutil.NoSuchProcess:
        return {pid}
