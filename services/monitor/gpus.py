"""Reading GPUs through NVML."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

import psutil

from services.monitor.core.gpu import GpuReading, MigInstance
from shared.errors import GpuError


class Gpus(Protocol):
    """The GPUs of this machine."""

    @property
    def problem(self) -> str | None:
        """Why the driver cannot be asked at present, none if it can."""

    def read(self, launcher_pid: int) -> list[GpuReading]:
        """All GPUs now, and which of them the launcher's process tree is on.

        Raises:
            GpuError: There is no driver, or it can read no GPU.
        """
        ...


def process_tree(pid: int) -> set[int]:
    """The process and its descendants, as far as they are alive and on this machine."""
    try:
        return {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    except psutil.NoSuchProcess:
        return {pid}


def pynvml() -> Any:
    """The binding of NVML.

    Raises:
        GpuError: It is not installed.
    """
    try:
        import pynvml
    except ImportError as error:
        raise GpuError(
            "the package nvidia-ml-py is not installed: pip install 'worldloop[monitor]'"
        ) from error
    return pynvml


class Nvml:
    """NVML behind `Gpus`. A driver that is missing, or goes away, is looked for again at each reading.

    Args:
        load: Gives the module `pynvml`, or a double with its functions.
        tree: Pids of a process and its descendants.
    """

    def __init__(
        self, load: Callable[[], Any] = pynvml, tree: Callable[[int], set[int]] = process_tree
    ) -> None:
        self._load, self._tree = load, tree
        self._nvml: Any = None
        self._handles: list[Any] = []
        """One for each GPU; its error for one that gave none."""
        self.problem: str | None = None
        with contextlib.suppress(GpuError):  # kept in `problem`
            self._open()

    def read(self, launcher_pid: int) -> list[GpuReading]:
        """See `Gpus`. A GPU that cannot be read does not hide the others."""
        if not self._handles:
            self._open()
        for index, handle in enumerate(self._handles):
            if isinstance(handle, self._nvml.NVMLError):
                self._handles[index] = self._handle(index)
        ours = self._tree(launcher_pid)
        readings = [
            _Device(self._nvml, index, handle).read(ours) for index, handle in enumerate(self._handles)
        ]
        if readings and all(reading.lost for reading in readings):
            self._close()
            raise GpuError("; ".join(f"NVML: GPU {each.index}: {each.problem}" for each in readings))
        return readings

    def _open(self) -> None:
        """Find the GPUs. None is no error."""
        try:
            self._nvml = nvml = self._load()
            nvml.nvmlInit()
            try:
                count = nvml.nvmlDeviceGetCount()
            except nvml.NVMLError:
                self._close()
                raise
        except GpuError as error:
            self.problem = str(error)
            raise
        except nvml.NVMLError as error:
            self.problem = f"NVML: {error}{_cure(nvml, error)}"
            raise GpuError(self.problem) from error
        self._handles, self.problem = [self._handle(index) for index in range(count)], None
        if not self._handles:
            self._close()

    def _close(self) -> None:
        self._handles = []
        with contextlib.suppress(self._nvml.NVMLError):  # of a driver that is gone
            self._nvml.nvmlShutdown()

    def _handle(self, index: int) -> Any:
        try:
            return self._nvml.nvmlDeviceGetHandleByIndex(index)
        except self._nvml.NVMLError as error:
            return error


class _Device:
    """One GPU while it is read: each thing is asked for itself, and what fails is noted."""

    def __init__(self, nvml: Any, index: int, handle: Any) -> None:
        self._nvml, self._index, self._handle = nvml, index, handle
        self._problems: dict[str, str] = {}

    def read(self, ours: set[int]) -> GpuReading:
        """What the driver says of it now."""
        if isinstance(self._handle, self._nvml.NVMLError):
            return self._lost(str(self._handle))
        nvml, handle = self._nvml, self._handle
        rates = self._ask("utilization", None, nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = self._ask("memory", None, self._memory, handle)
        pids = self._ask("processes", set(), self._pids, handle)
        if self._problems.keys() == {"utilization", "memory", "processes"}:
            return self._lost("; ".join(dict.fromkeys(self._problems.values())))
        instances = self._instances()
        pids = pids.union(*(each.pids for each in instances))
        used = sum(each.memory_bytes for each in instances)
        total = sum(each.memory_total_bytes for each in instances)
        return GpuReading(
            index=self._index,
            name=self._ask("name", "", nvml.nvmlDeviceGetName, handle),
            utilization=None if rates is None else float(rates.gpu),
            memory_bytes=used if memory is None else int(memory.used),
            memory_total_bytes=total if memory is None else int(memory.total),
            pids=sorted(pids),
            ours=not ours.isdisjoint(pids),
            instances=tuple(instances),
            problem="; ".join(f"{what}: {text}" for what, text in self._problems.items()) or None,
        )

    def _instances(self) -> list[MigInstance]:
        """The parts of a GPU that is partitioned."""
        nvml, found = self._nvml, list[MigInstance]()
        current, _ = self._ask("MIG", (0, 0), nvml.nvmlDeviceGetMigMode, self._handle)
        count = self._ask("MIG", 0, nvml.nvmlDeviceGetMaxMigDeviceCount, self._handle) if current else 0
        for index in range(count):
            handle = self._ask("MIG", None, nvml.nvmlDeviceGetMigDeviceHandleByIndex, self._handle, index)
            if handle is None:  # a place without an instance
                continue
            memory = self._ask("MIG", None, self._memory, handle)
            instance = MigInstance(
                index=index,
                memory_bytes=0 if memory is None else int(memory.used),
                memory_total_bytes=0 if memory is None else int(memory.total),
                pids=sorted(self._ask("MIG", set(), self._pids, handle)),
            )
            found.append(instance)
        return found

    def _memory(self, handle: Any) -> Any:
        """What is in use, as `nvidia-smi` shows it: without what the driver reserves for itself."""
        nvml = self._nvml
        try:
            return nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        except nvml.NVMLError:  # a driver before 510, or WSL's: the older way does not tell them apart
            return nvml.nvmlDeviceGetMemoryInfo(handle)

    def _pids(self, handle: Any) -> set[int]:
        nvml = self._nvml
        try:
            running = nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)
        except nvml.NVMLError_FunctionNotFound:  # a driver before 510
            running = nvml.nvmlDeviceGetComputeRunningProcesses_v2(handle)
        return {int(process.pid) for process in running}

    def _ask(self, what: str, otherwise: Any, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the driver says; `otherwise` where it fails or does not offer it (MIG, permissions)."""
        nvml = self._nvml
        try:
            return function(*arguments)
        except (
            nvml.NVMLError_NotSupported,
            nvml.NVMLError_NoPermission,
            nvml.NVMLError_NotFound,
            nvml.NVMLError_FunctionNotFound,
        ):
            return otherwise
        except nvml.NVMLError as error:
            self._problems[what] = str(error)
            return otherwise

    def _lost(self, problem: str) -> GpuReading:
        return GpuReading(
            index=self._index,
            utilization=None,
            memory_bytes=0,
            memory_total_bytes=0,
            pids=[],
            ours=False,
            problem=problem,
            lost=True,
        )


def _cure(nvml: Any, error: Exception) -> str:
    """What an error at the start means, in words."""
    for kind, words in (
        (
            nvml.NVMLError_LibraryNotFound,
            "no NVIDIA driver is installed, or this container was started without the GPUs",
        ),
        (nvml.NVMLError_DriverNotLoaded, "the driver is installed, but its kernel module is not loaded"),
        (
            nvml.NVMLError_LibRmVersionMismatch,
            "the driver was updated under its library: restart the machine, or reload the kernel module",
        ),
        (nvml.NVMLError_NoPermission, "this user may not open the devices /dev/nvidia*"),
    ):
        if isinstance(error, kind):
            return f" ({words})"
    return ""
