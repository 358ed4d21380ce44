"""GPU memory of ended processes, before the next launch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.nvml.conftest import ROOT, Stub

ENDED = 4711
WAITER = """
import asyncio, sys
from services.trainer.gpu_memory import freed
print("waiting", flush=True)
print(asyncio.run(freed({%d}, timeout_sec=float(sys.argv[1]))), flush=True)
"""


class Waiter:
    """A trainer that is about to launch."""

    def __init__(self, env: dict[str, str], timeout_sec: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WAITER % ENDED, str(timeout_sec)],
            env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "waiting\n"

    def answer(self) -> tuple[str, str]:
        """What it said at last, and its log."""
        out, _ = self._process.communicate()
        *log, last = out.splitlines()
        return last, "\n".join(log)


def test_the_launch_waits_until_no_gpu_shows_the_ended_process(stub: Stub) -> None:
    stub.play("gpu 97 500 1024 1", f"gpu 97 500 1024 {ENDED}")
    waiter = Waiter(stub.env, 600)
    stub.play("gpu 97 500 1024 1", "gpu 97 500 1024 0")
    answer, log = waiter.answer()
    assert answer == "True"
    assert "GPU memory of ended processes is free" in log


def test_a_driver_that_holds_on_is_reported_and_not_waited_for_longer(stub: Stub) -> None:
    stub.play(f"gpu 97 500 1024 {ENDED}")
    answer, log = Waiter(stub.env, 0.3).answer()
    assert answer == "False"
    assert "still held" in log
    assert str(ENDED) in log


@pytest.mark.parametrize(
    "script",
    [
        ["gpu 97 500 1024 -"],
        [f"gpu 97 500 1024 {ENDED}", "fail * 15"],
        [f"gpu 97 500 1024 {ENDED}", "fail nvmlDeviceGetCount_v2 999"],
        ["fail nvmlInitWithFlags 9"],
        [f"gpu 97 500 1024 {ENDED}", "fail * 15", "fail nvmlShutdown 1"],
    ],
)
def test_where_nvml_cannot_tell_nothing_is_waited_for(stub: Stub, script: list[str]) -> None:
    stub.play(*script)
    assert Waiter(stub.env, 600).answer()[0] == "True"


def test_one_gpu_that_cannot_be_read_does_not_hide_the_other(stub: Stub) -> None:
    stub.play("gpu 97 500 1024 1", f"gpu 97 500 1024 {ENDED}", "fail * 15 0")
    assert Waiter(stub.env, 0.3).answer()[0] == "False"
