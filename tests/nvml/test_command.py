"""`worldloop monitor gpus` on machines of all kinds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from tests.nvml.conftest import ROOT, Stub

NOBODY_HERE = 2**22 + 7
"""More than any pid."""


def ask(env: dict[str, str], *flags: str) -> tuple[int, str]:
    words = [sys.executable, "-m", "services.cli", "monitor", "gpus", *flags]
    found = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.stderr == ""
    return found.returncode, found.stdout


def ask_json(env: dict[str, str]) -> tuple[int, dict[str, Any]]:
    code, text = ask(env, "--json")
    return code, json.loads(text)


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[int]:
    """A training launcher of this stack."""
    script = tmp_path / "scripts" / "train_dynamics.py"
    script.parent.mkdir()
    script.write_text("print(flush=True); import time; time.sleep(600)")
    state = Path(os.environ["WORLDLOOP_STATE_DIR"])
    state.mkdir(exist_ok=True)
    mark = {"WORLDLOOP_STACK": str(state)}
    process = subprocess.Popen(
        [sys.executable, "-S", str(script)], env={**os.environ, **mark}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid
    process.kill()
    process.communicate()


def test_two_gpus_at_work_for_this_stack(stub: Stub, launcher: int) -> None:
    stub.play(f"gpu 97 500 1024 {launcher},{os.getpid()}", f"gpu 1 500 1024 {launcher},{NOBODY_HERE}")
    code, found = ask_json(stub.env)
    assert (code, found["problem"]) == (0, None)
    assert found["dual_gpu"] == {
        "ok": True,
        "decided_by": "utilization",
        "why": "at or above 1 % in 2 readings: GPU 0 in 2, GPU 1 in 2",
    }
    first, second = found["gpus"]
    assert (first["name"], first["utilization"], first["memory_bytes"]) == ("Stub GPU 0", 97, 500 << 20)
    roles = {each["pid"]: each["launcher"] for gpu in (first, second) for each in gpu["processes"]}
    assert roles == {launcher: "ours", os.getpid(): None, NOBODY_HERE: None}
    code, text = ask(stub.env)
    assert code == 0
    assert "GPU 0: Stub GPU 0, 97 %, 0.5 of 1.0 GiB" in text
    assert "[training of this stack]" in text
    assert f"{NOBODY_HERE}  not visible here" in text
    assert "The dual-GPU check would say true, by utilization:\n" in text
    assert max(map(len, text.splitlines())) <= 80


def test_an_idle_second_gpu(stub: Stub, launcher: int) -> None:
    stub.play(f"gpu 97 500 1024 {launcher}", f"gpu 0 500 1024 {launcher}")
    _, text = ask(stub.env)
    assert "say false, by utilization:\n    at or above 1 % in 2 readings: GPU 0 in 2, GPU 1 in 0.\n" in text


def test_partitioned_gpus_are_judged_by_processes(stub: Stub, launcher: int) -> None:
    stub.play(*2 * (f"gpu 0 100 1024 {launcher} mig", f"mig 100 512 {launcher}"))
    code, text = ask(stub.env)
    assert code == 0
    assert "GPU 0: Stub GPU 0, utilization not readable, 0.1 of 1.0 GiB, 1 MIG instances" in text
    assert "instance 0: 0.1 of 0.5 GiB" in text
    assert "would say true, by processes:\n    utilization cannot be read on GPU 0, 1; training" in text
    assert "training of this stack is on GPU 0, 1." in text


def test_a_lost_gpu_beside_one_whose_processes_are_hidden(stub: Stub) -> None:
    stub.play("gpu 97 500 1024 -", "gpu 97 500 1024 0", "fail * 15 1")
    code, text = ask(stub.env)
    assert code == 0
    assert "GPU 1: cannot be read: GPU is lost" in text
    assert "no processes shown" in text
    assert "would say false, by utilization:\n    1 GPU could be read, and it takes two.\n" in text
    assert "No training of this stack was seen on a GPU (a container may hide processes)." in text


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ([], "the driver answers, but there is no GPU"),
        (["fail nvmlInitWithFlags 9"], "Driver Not Loaded (the driver is installed, but its kernel module"),
        (["fail nvmlInitWithFlags 18"], "the driver was updated under its library"),
        (["gpu 1 2 3 0", "fail * 15"], "NVML: GPU 0: GPU is lost"),
    ],
)
def test_every_absence_has_its_words(stub: Stub, script: list[str], text: str) -> None:
    stub.play(*script)
    code, said = ask(stub.env)
    assert code == 1
    assert text in said
    assert "Runs train on the CPU" in said


def test_no_driver_as_json(stub: Stub, tmp_path: Path) -> None:
    code, found = ask_json(stub.env | {"LD_LIBRARY_PATH": str(tmp_path)})
    assert (code, found["gpus"], found["dual_gpu"]["ok"]) == (1, [], None)
    assert "no NVIDIA driver is installed, or this container was started without" in found["problem"]


def test_the_numbers_are_those_of_nvidia_smi() -> None:
    """A GPU at work changes its numbers between two looks: there, totals and names are compared alone."""
    words = [
        needs.program("nvidia-smi"),
        "--query-gpu=index,name,memory.total,utilization.gpu,memory.used",
        "--format=csv,noheader,nounits",
    ]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    _, found = ask_json({**os.environ, "PYTHONPATH": str(ROOT)})
    assert len(found["gpus"]) == len(said)
    for gpu, text in zip(found["gpus"], said, strict=True):
        index, name, total, percent, used = text.split(", ")
        assert (gpu["index"], gpu["name"], gpu["memory_total_bytes"] >> 20) == (int(index), name, int(total))
        if percent == "0" and gpu["utilization"] == 0:
            assert gpu["memory_bytes"] >> 20 == int(used)
