"""Reading GPUs through the real binding, from a library that plays what GPUs and drivers do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.errors import GpuError
from tests.nvml.conftest import Reader, Readers, Stub, compiled

MB = 1 << 20
INIT, COUNT, HANDLE = "nvmlInitWithFlags", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2"
LOST = 15


@pytest.mark.parametrize("count", [0, 1, 2, 8])
def test_as_many_gpus_are_read_as_there_are(stage: Stub, reader: Reader, count: int) -> None:
    stage.play(*(f"gpu {10 * i} {100 + i} 1000 0" for i in range(count)))
    found = reader.read()
    assert [(gpu.index, gpu.utilization) for gpu in found] == [(i, 10 * i) for i in range(count)]
    assert [gpu.memory_bytes for gpu in found] == [(100 + i) * MB for i in range(count)]
    assert [gpu.name for gpu in found] == [f"Stub GPU {i}" for i in range(count)]


def test_the_launchers_processes_are_told_from_foreign_ones(stage: Stub, reader: Reader) -> None:
    mine, foreign = os.getpid(), 2**22 + 7
    stage.play(f"gpu 97 500 1000 {foreign},{mine}", f"gpu 0 500 1000 {foreign}")
    first, idle = reader.read(mine)
    assert (first.pids, first.ours) == (sorted([mine, foreign]), True)
    assert (idle.utilization, idle.pids, idle.ours) == (0, [foreign], False)


def test_in_a_container_the_driver_may_show_nobody(stage: Stub, reader: Reader) -> None:
    stage.play("gpu 97 500 1000 -", "gpu 50 500 1000 0")
    assert [(gpu.utilization, gpu.pids, gpu.problem) for gpu in reader.read()] == [
        (97, [], None),
        (50, [], None),
    ]


def test_a_partitioned_gpu_says_no_utilization_and_the_rest_per_instance(stage: Stub, reader: Reader) -> None:
    stage.play("gpu 97 300 1000 41 mig", "mig 100 400 41", "mig 200 500 42", "gpu 3 1 1000 0")
    whole, other = reader.read(42)
    assert (whole.utilization, whole.memory_bytes, whole.pids, whole.ours) == (None, 300 * MB, [41, 42], True)
    parts = [(each.index, each.memory_bytes, each.memory_total_bytes, each.pids) for each in whole.instances]
    assert parts == [(0, 100 * MB, 400 * MB, [41]), (1, 200 * MB, 500 * MB, [42])]
    assert (other.utilization, other.instances) == (3, ())


def test_where_only_instances_tell_their_memory_it_is_added_up(stage: Stub, reader: Reader) -> None:
    stage.play("gpu - 0 0 - mig", "mig 100 400 41", "mig 200 500 -")
    (gpu,) = reader.read()
    assert (gpu.memory_bytes, gpu.memory_total_bytes, gpu.pids) == (300 * MB, 900 * MB, [41])


def test_a_gpu_that_falls_off_the_bus_does_not_hide_the_other(stage: Stub, reader: Reader) -> None:
    both = ("gpu 97 500 1000 41", "gpu 90 500 1000 42")
    stage.play(*both)
    assert [gpu.lost for gpu in reader.read()] == [False, False]
    stage.play(*both, f"fail * {LOST} 0")
    lost, other = reader.read(42)
    assert (lost.lost, lost.problem, lost.utilization) == (True, "GPU is lost", None)
    assert (other.lost, other.utilization, other.ours) == (False, 90, True)
    stage.play(*both)
    assert [gpu.lost for gpu in reader.read()] == [False, False]


@pytest.mark.parametrize("code", [1, LOST, 16, 999])
def test_when_all_are_lost_the_driver_is_looked_for_again(stage: Stub, reader: Reader, code: int) -> None:
    stage.play("gpu 97 500 1000 41")
    reader.read()
    stage.play("gpu 97 500 1000 41", f"fail * {code}")
    for _ in range(2):
        with pytest.raises(GpuError, match="NVML: GPU 0: "):
            reader.read()
    assert reader.problem is None, "the driver is there"
    stage.play("gpu 5 500 1000 41", "gpu 6 500 1000 41")
    assert [gpu.utilization for gpu in reader.read()] == [5, 6]


def test_a_driver_that_goes_away_and_comes_back_is_used_again(stage: Stub, reader: Reader) -> None:
    stage.play("gpu 97 500 1000 41")
    reader.read()
    stage.vanish()
    for text in ("Driver Not Loaded", "NVML: Driver Not Loaded"):
        with pytest.raises(GpuError, match=text):
            reader.read()
    assert (
        reader.problem
        == "NVML: Driver Not Loaded (the driver is installed, but its kernel module is not loaded)"
    )
    stage.play("gpu 98 500 1000 41")
    assert [gpu.utilization for gpu in reader.read()] == [98]


def test_a_driver_that_comes_after_the_monitor_is_used(stage: Stub, reader: Reader) -> None:
    stage.vanish()
    reader.new()
    stage.play("gpu 97 500 1000 41")
    assert [gpu.utilization for gpu in reader.read()] == [97]


@pytest.mark.parametrize(
    ("function", "code", "text"),
    [
        (INIT, 9, "Driver Not Loaded"),
        (INIT, 18, "RM has detected an NVML/RM version mismatch. .the driver was updated"),
        (INIT, 4, "Insufficient Permissions .this user may not open"),
        (COUNT, 999, "Unknown Error"),
        (HANDLE, LOST, "GPU 0: GPU is lost"),
    ],
)
def test_what_keeps_all_gpus_from_being_read_says_why_and_passes(
    stage: Stub, reader: Reader, function: str, code: int, text: str
) -> None:
    stage.play("gpu 97 500 1000 41", f"fail {function} {code}")
    reader.new()
    with pytest.raises(GpuError, match=f"NVML: {text}"):
        reader.read()
    stage.play("gpu 97 500 1000 41")
    assert [gpu.utilization for gpu in reader.read()] == [97]


def test_a_gpu_that_gives_no_handle_does_not_hide_the_other(stage: Stub, reader: Reader) -> None:
    stage.play("gpu 97 500 1000 41", "gpu 90 500 1000 42", f"fail {HANDLE} 4 0")
    reader.new()
    closed, other = reader.read()
    assert (closed.lost, closed.problem) == (True, "Insufficient Permissions")
    assert other.utilization == 90
    stage.play("gpu 97 500 1000 41", "gpu 90 500 1000 42")
    assert [gpu.utilization for gpu in reader.read()] == [97, 90]


@pytest.mark.parametrize(
    ("function", "what", "left"),
    [
        ("nvmlDeviceGetUtilizationRates", "utilization", (None, 500 * MB, [41], "Stub GPU 0")),
        ("nvmlDeviceGetMemoryInfo", "memory", (97, 0, [41], "Stub GPU 0")),
        ("nvmlDeviceGetComputeRunningProcesses_v3", "processes", (97, 500 * MB, [], "Stub GPU 0")),
        ("nvmlDeviceGetMigMode", "MIG", (97, 500 * MB, [41], "Stub GPU 0")),
        ("nvmlDeviceGetName", "name", (97, 500 * MB, [41], "")),
    ],
)
def test_one_call_that_fails_costs_one_number(
    stage: Stub, reader: Reader, function: str, what: str, left: tuple[object, ...]
) -> None:
    stage.play("gpu 97 500 1000 41", f"fail {function} 999", f"fail {function}_v2 999")  # both ways to ask
    (gpu,) = reader.read()
    assert (gpu.utilization, gpu.memory_bytes, gpu.pids, gpu.name) == left
    assert (gpu.lost, gpu.problem) == (False, f"{what}: Unknown Error")


def test_more_processes_than_the_binding_made_room_for_are_all_read(stage: Stub, reader: Reader) -> None:
    stage.play("gpu 97 500 1000 " + ",".join(str(pid) for pid in range(1, 41)))
    assert reader.read()[0].pids == list(range(1, 41))


def test_a_driver_before_510_tells_processes_and_memory_the_older_way(
    tmp_path: Path, readers: Readers
) -> None:
    old = Stub(compiled(tmp_path, "-DBEFORE_510"), tmp_path / "nvml.script")
    old.play("gpu 97 500 1000 41")
    (gpu,) = readers(old.env).read(41)
    assert (gpu.pids, gpu.ours, gpu.problem) == ([41], True, None)
    assert gpu.memory_bytes == (500 + 8) * MB, "with what the driver reserves: it cannot tell them apart"


def test_without_the_library_there_is_no_driver(stub: Stub, readers: Readers, tmp_path: Path) -> None:
    reader = readers(stub.env | {"LD_LIBRARY_PATH": str(tmp_path)})
    with pytest.raises(GpuError, match="NVML: NVML Shared Library Not Found"):
        reader.read()
    assert reader.problem == (
        "NVML: NVML Shared Library Not Found (no NVIDIA driver is installed, or this container was started "
        "without the GPUs)"
    )
