"""The stub of NVIDIA's library, compiled, and processes that ask it through the real binding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.monitor.core.gpu import GpuReading
from shared.errors import GpuError
from tests import needs

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
READER = """
import sys
from services.monitor.gpus import Nvml
from shared.errors import GpuError
gpus = Nvml()
for order in sys.stdin:
    try:
        if order == "new\\n":
            gpus = Nvml()
        found = [] if order == "new\\n" else [each.model_dump_json() for each in gpus.read(int(order))]
        print('{"gpus": [%s]}' % ", ".join(found), flush=True)
    except GpuError as error:
        import json
        print(json.dumps({"error": str(error), "problem": gpus.problem}), flush=True)
"""


class Stub:
    """A compiled `libnvidia-ml.so.1` and the script that it plays."""

    def __init__(self, library: Path, script: Path) -> None:
        self.script = script
        self.env = {
            **os.environ,
            "LD_LIBRARY_PATH": str(library.parent),
            "NVML_STUB": str(script),
            "PYTHONPATH": str(ROOT),
        }
        self.play()

    def play(self, *lines: str) -> None:
        """Act so from now on; the lines as `stub.c` says."""
        new = self.script.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n")
        new.replace(self.script)

    def vanish(self) -> None:
        """The driver is unloaded."""
        self.script.unlink()


class Reader:
    """A process that reads GPUs as the monitor does."""

    def __init__(self, env: dict[str, str]) -> None:
        self.problem: str | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def new(self) -> None:
        """A monitor that has just been started."""
        self._ask("new")

    def read(self, launcher: int = 0) -> list[GpuReading]:
        told = self._ask(str(launcher))
        if "error" in told:
            self.problem = told["problem"]
            raise GpuError(told["error"])
        return [GpuReading.model_validate(gpu) for gpu in told["gpus"]]

    def end(self) -> None:
        self._process.communicate()

    def _ask(self, order: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()
        told: dict[str, Any] = json.loads(self._process.stdout.readline())
        return told


def compiled(directory: Path, *flags: str) -> Path:
    library = directory / "libnvidia-ml.so.1"
    words = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", *flags, "-o"]
    subprocess.run([needs.program("gcc", "cc"), *words, str(library), str(HERE / "stub.c")], check=True)
    return library


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def stub(library: Path, tmp_path: Path) -> Stub:
    return Stub(library, tmp_path / "nvml.script")


@pytest.fixture(scope="session")
def stage(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Stub:
    """The stub that `reader` asks."""
    return Stub(library, tmp_path_factory.mktemp("stage") / "nvml.script")


@pytest.fixture(scope="session")
def reading(stage: Stub) -> Iterator[Reader]:
    reader = Reader(stage.env)
    yield reader
    reader.end()


@pytest.fixture
def reader(stage: Stub, reading: Reader) -> Reader:
    """One that found a driver without GPUs so far."""
    stage.play()
    reading.new()
    return reading


Readers = Callable[[dict[str, str]], Reader]


@pytest.fixture
def readers() -> Iterator[Readers]:
    made: list[Reader] = []

    def make(env: dict[str, str]) -> Reader:
        made.append(Reader(env))
        return made[-1]

    yield make
    for each in made:
        each.end()
