"""Hosts of a soak: network namespaces on a bridge, each with a server of a JetStream cluster and services.

The bridge has a namespace of its own, which the machine's firewall has no part in; the test is inside it. All
hosts see one directory, as over a shared file system. Services are kept alive as an init system would.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from services import nats_server
from tests import needs

NETWORK = "10.99.77"
CLIENT, CLUSTER, MEETING = 4222, 6222, 29400
HERE = f"{NETWORK}.254"
"""Address at the bridge, where the test and the control CLI are."""
CLONE_NEWNET = 0x40000000


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@dataclass
class Host:
    """One namespace, with what runs in it."""

    number: int
    directory: Path
    bridge: str
    environment: Mapping[str, str]
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    server: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"{self.bridge}h{self.number}"

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number + 1}"

    @property
    def link(self) -> str:
        """The bridge's end of its cable."""
        return f"{self.bridge}v{self.number}"

    def make(self) -> None:
        self.directory.mkdir()
        ip("netns", "add", self.name)
        ip(
            "link",
            "add",
            self.link,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            f"/run/netns/{self.name}",
        )
        ip("link", "set", self.link, "master", self.bridge, "up")
        ip("-n", self.name, "address", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("-n", self.name, "link", "set", "lo", "up")

    def cut(self) -> None:
        """Pull the cable at the switch: what is sent is lost, and nobody is told."""
        ip("link", "set", self.link, "nomaster")

    def heal(self) -> None:
        ip("link", "set", self.link, "master", self.bridge)

    def start_server(self, peers: list[str]) -> None:
        config = self.directory / "nats.conf"
        routes = ", ".join(f'"nats://{peer}:{CLUSTER}"' for peer in peers)
        config.write_text(
            f"""
            listen: {self.address}:{CLIENT}
            server_name: n{self.number}
            jetstream {{ store_dir: {json.dumps(str(self.directory / "store"))}, sync_interval: always }}
            cluster {{ name: soak, listen: {self.address}:{CLUSTER}, routes: [{routes}] }}
            """
        )
        self.server = self._start([str(nats_server.find()), "-c", str(config)], "server")

    def start_service(self, name: str, *arguments: str) -> None:
        """Start a service, and again whenever it ends."""
        command = shlex.join([sys.executable, "-m", f"services.{name}.main", *arguments])
        self._start(["sh", "-c", f"while true; do {command}; sleep 1; done"], name)

    def _start(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command],
                env=self.environment,
                cwd=self.directory.parent,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def kill_server(self) -> None:
        assert self.server is not None
        self.server.kill()  # `ip netns exec` became the server
        self.server.wait()

    def remove(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        with contextlib.suppress(subprocess.CalledProcessError):
            ip("netns", "delete", self.name)


@contextlib.contextmanager
def hosts(number: int, directory: Path, environment: Mapping[str, str]) -> Iterator[list[Host]]:
    """So many hosts on a bridge, each with a server of one cluster.

    Skips, and says why, where namespaces are not permitted.
    """
    needs.root()
    needs.program("ip")
    bridge = f"wl{os.getpid() % 100_000}"
    made: list[Host] = []
    try:
        ip("netns", "add", bridge)
    except subprocess.CalledProcessError as error:
        needs.missing(f"network namespaces ({error.stderr.strip()})")
    home = Path("/proc/self/ns/net").open()  # noqa: SIM115 - closed when this is left
    try:
        with Path("/run/netns", bridge).open() as opened:
            _enter(opened)
        ip("link", "add", bridge, "type", "bridge")
        ip("link", "set", "lo", "up")
        ip("address", "add", f"{HERE}/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        urls = ",".join(f"nats://{NETWORK}.{each + 1}:{CLIENT}" for each in range(number))
        for each in range(number):
            own = dict(environment) | {
                "WORLDLOOP_NATS_URL": urls,
                "WORLDLOOP_NATS_REPLICAS": str(number),
                "WORLDLOOP_STATE_DIR": str(directory / f"host_{each}" / "state"),
                "WORLDLOOP_CACHE_DIR": str(directory / f"host_{each}" / "cache"),
                "OMP_NUM_THREADS": "1",
            }
            made.append(Host(each, directory / f"host_{each}", bridge, own))
            made[-1].make()
        for host in made:
            host.start_server([other.address for other in made if other is not host])
        yield made
    except subprocess.CalledProcessError as error:
        needs.missing(f"network namespaces ({error.stderr.strip()})")
    finally:
        for host in made:
            host.remove()
        with home:
            _enter(home)
        ip("netns", "delete", bridge)


def _enter(namespace: IO[str]) -> None:
    """Be in a network namespace, with what is started from now on."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"{namespace.name}: {os.strerror(ctypes.get_errno())}")


def wait(until: Callable[[], bool], what: str, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, what
        time.sleep(0.2)
