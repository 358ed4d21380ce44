"""What all tests need: directories of their own, a real nats-server; and how `make test` divides them."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from services import nats_server as program
from services.keys import directory as key_directory

# no test asserts a wall-clock time
settings.register_profile("worldloop", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("worldloop")


class SideBySide(LoadFileScheduling):
    """The tests of a file stay in one process; so do all of `e2e`, which share a finished run."""

    def _split_scope(self, nodeid: str) -> str:
        return "tests/e2e" if nodeid.startswith("tests/e2e/") else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SideBySide:
    """See pytest-xdist."""
    return SideBySide(config, log)


@pytest.fixture(autouse=True)
def own_directories(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's state, cache or environment."""
    for name in (
        "WORLDLOOP_NATS_URL",
        "WORLDLOOP_NATS_KEY",
        "WORLDLOOP_NATS_CA",
        "WORLDLOOP_OUTPUT_ROOT",
        "RUN_BUNDLE_ROOT",
    ):
        monkeypatch.delenv(name, raising=False)
    directory = tmp_path_factory.mktemp("own")
    monkeypatch.setenv("WORLDLOOP_STATE_DIR", str(directory / "state"))
    monkeypatch.setenv("WORLDLOOP_CACHE_DIR", str(directory / "cache"))
    monkeypatch.setenv("WORLDLOOP_NOTIFY_FILE", str(directory / "notify.yaml"))


def write_keys(directory: Path, *hosts: str, tls: bool = True) -> tuple[str, ...]:
    """Keys, and TLS, in `keys` of a server's directory; returns what its configuration has to include."""
    keys = directory / "keys"
    key_directory.make_users(keys)
    if not tls:
        return (f"keys/{key_directory.AUTH}",)
    key_directory.make_certificates(keys, hosts, datetime.now(UTC))
    names = {"cert_file": key_directory.SERVER, "key_file": key_directory.SERVER_KEY}
    files = "\n".join(f'  {name}: "{keys / file}"' for name, file in names.items())
    (directory / "tls.conf").write_text(f'tls {{\n{files}\n  handshake_first: "1s"\n}}\n')
    return (f"keys/{key_directory.AUTH}", "tls.conf")


class NatsServer:
    """A nats-server of its own on a free loopback port, that can be killed and started again."""

    def __init__(self, directory: Path, include: Sequence[str] = ()) -> None:
        self.directory, self.port, self._include = directory, program.free_port(), include
        self.url = f"nats://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = program.configure(self.directory, self.port, self._include)
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen([program.find(), "-c", config], stdout=log, stderr=log)
        for _ in range(6000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError((self.directory / "server.log").read_text())

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=60)
            self._process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def reload(self) -> None:
        """Make it read its configuration again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server for all tests that keep to run ids and services of their own."""
    yield from _running(tmp_path_factory.mktemp("nats"))


@pytest.fixture
def fresh_nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server for one test: empty, and the test may kill it."""
    yield from _running(tmp_path)


def _running(directory: Path) -> Iterator[NatsServer]:
    server = NatsServer(directory)
    server.start()
    yield server
    server.stop()
