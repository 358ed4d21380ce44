"""GPU memory of ended processes: seen to be free before the next launch, where NVML can tell.

The driver frees the memory of a process a moment after the process is gone; a launcher that comes too early
runs out of memory through no fault of its plan. NVML shows who holds memory by process id: in a container it
may show none or foreign ones, and then there is nothing to wait for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Set
from typing import Any

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

FREE_WITHIN_SEC = 30.0
"""A driver that holds on for longer is reported, and the launch goes on."""
LOOK_SEC = 0.2


async def freed(pids: Set[int], timeout_sec: float = FREE_WITHIN_SEC) -> bool:
    """Wait until no GPU shows memory of these processes.

    Args:
        pids: Processes that have ended.
        timeout_sec: How long to wait at most.

    Returns:
        Whether it is so, as far as NVML can tell.
    """
    if not pids:
        return True
    return await asyncio.to_thread(_wait, pids, timeout_sec)


def _wait(pids: Set[int], timeout_sec: float) -> bool:
    try:
        import pynvml as nvml
    except ImportError:
        log.debug("whether GPU memory is free cannot be seen: nvidia-ml-py is not installed")
        return True
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as problem:
        log.debug("whether GPU memory is free cannot be seen", problem=str(problem))
        return True
    try:
        began = time.monotonic()
        while holding := _holders(nvml) & pids:
            if time.monotonic() - began > timeout_sec:
                log.warning(
                    "GPU memory of ended processes is still held, launching all the same",
                    pids=sorted(holding),
                    waited_sec=timeout_sec,
                )
                return False
            time.sleep(LOOK_SEC)
        log.info("GPU memory of ended processes is free", waited_sec=round(time.monotonic() - began, 1))
        return True
    finally:
        _told(nvml, None, nvml.nvmlShutdown)


def _holders(nvml: Any) -> set[int]:
    """Processes with memory on a GPU, as far as each GPU tells."""
    pids: set[int] = set()
    for index in range(_told(nvml, 0, nvml.nvmlDeviceGetCount)):
        handle = _told(nvml, None, nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is not None:
            running = _told(nvml, [], nvml.nvmlDeviceGetComputeRunningProcesses, handle)
            pids |= {int(each.pid) for each in running}
    return pids


def _told(nvml: Any, otherwise: Any, ask: Callable[..., Any], *arguments: Any) -> Any:
    """What the driver says, `otherwise` where it does not (a lost GPU, permissions, an old driver)."""
    try:
        return ask(*arguments)
    except (nvml.NVMLError, nvml.NVMLLibraryMismatchError) as problem:
        log.debug("NVML does not tell", problem=str(problem))
        return otherwise
