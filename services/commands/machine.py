"""What this machine has, found without importing torch."""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass

from shared.config import TrainingConfig
from shared.errors import UsageError


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as NVML sees it."""

    index: int
    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Nvml:
    """What NVML says."""

    gpus: list[Gpu]
    driver: str | None = None
    problem: str | None = None
    """Why it cannot be asked."""


def nvml() -> Nvml:
    """Ask NVML for the GPUs; a machine without it has none."""
    try:
        import pynvml
    except ImportError:
        return Nvml([], problem="package nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Nvml([], problem=str(error))
    try:
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name = pynvml.nvmlDeviceGetName(handle)
            gpus.append(Gpu(index, name, int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)))
        return Nvml(gpus, driver=str(pynvml.nvmlSystemGetDriverVersion()))
    except pynvml.NVMLError as error:
        return Nvml([], problem=str(error))
    finally:
        pynvml.nvmlShutdown()


def torch_version() -> str | None:
    """Version of the installed torch, none if it is not there."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def usable_gpus() -> int:
    """GPUs torch could train on: those NVML sees and CUDA_VISIBLE_DEVICES leaves; none for a CPU build."""
    version = torch_version()
    if version is not None and version.endswith("+cpu"):
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = len(nvml().gpus)
    if visible is None:
        return found
    return min(
        found, len([device for device in visible.split(",") if device.strip() and device.strip() != "-1"])
    )


def place(
    training: TrainingConfig, *, gpus: int, allow_single_gpu: bool, check_count: bool = True
) -> tuple[str, int]:
    """Device and number of processes for a run.

    Args:
        training: What was asked for (`device` may be auto).
        gpus: GPUs that can be used.
        allow_single_gpu: Go on with fewer GPUs than processes asked for.
        check_count: False when nothing will be trained: one GPU is enough then.

    Returns:
        "cpu" or "cuda", and processes per node.

    Raises:
        UsageError: More processes than GPUs without permission, or CUDA without a GPU.
    """
    device = training.device if training.device != "auto" else ("cuda" if gpus else "cpu")
    wanted = training.nproc_per_node
    if device == "cpu":
        return device, wanted
    if not gpus:
        raise UsageError(
            "--device cuda: no usable GPU found (see `worldloop doctor`); use --device cpu or auto"
        )
    if check_count and wanted > gpus:
        if not allow_single_gpu:
            raise UsageError(
                f"--nproc-per-node {wanted}: only {gpus} GPU{'s' if gpus > 1 else ''} found; "
                f"give --allow-single-gpu to train on {gpus}"
            )
        return device, gpus
    return device, wanted
