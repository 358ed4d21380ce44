"""A fresh copy of the checkout as a Compose project of its own, and what the checks say and hold of it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROJECT = "worldloop-check"
SERVICES = ("nats", "trainer", "monitor", "gatekeeper", "reporter", "inference")
"""What runs: the server and the five services."""
BACK_SEC = 120.0
"""How long something may take until its health is what it is to be."""


class Broken(Exception):
    """A promise is broken."""


class Stack:
    """The project, on free ports. Nothing of this shell's settings reaches it but the choice of base images.

    Args:
        scratch: For everything that the check writes on this host.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.copy, self.keys = scratch, scratch / "copy", scratch / "keys"
        self.nats_port, self.page_port = free_port(), free_port()
        self.marker = secrets.token_hex(16)
        """A made-up secret of this host, which no image may hold."""
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if name.endswith("_IMAGE") or not name.startswith(("WORLDLOOP_", "COMPOSE_", "RUN_BUNDLE_"))
        } | {"WANDB_API_KEY": self.marker, "HF_TOKEN": self.marker}

    def start(self) -> None:
        """What git knows of the checkout, then `docker compose up`, and nothing in between."""
        listed = output("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
        for name in listed.split("\0"):
            if (ROOT / name).is_file():
                (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, self.copy / name)
        for name in ("operator.nk", "notify.yaml", "runs/secret", ".env.local"):  # as may lie in a checkout
            (self.copy / name).parent.mkdir(exist_ok=True)
            (self.copy / name).write_text(self.marker)
        self.remove()  # what a check that was killed left
        began = time.monotonic()
        self.compose("up", "--detach", "--build", "--wait")
        saw(f"docker compose up in a fresh copy: built and healthy after {time.monotonic() - began:.0f} s")
        self.compose("cp", "keys:/keys/operator/.", str(self.keys))

    def compose(self, *arguments: str, **environ: str) -> str:
        """Output of a Compose command."""
        ours = {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "WORLDLOOP_NATS_PORT": str(self.nats_port),
            "WORLDLOOP_PAGE_PORT": str(self.page_port),
        }
        return output("docker", "compose", *arguments, cwd=self.copy, env=self.environ | ours | environ)

    def inspect(self, service: str) -> dict[str, Any]:
        """What Docker knows of a service's container."""
        found = output("docker", "ps", "--all", "--quiet", *labelled(f"service={service}"))
        return dict(json.loads(output("docker", "inspect", *found.split()))[0])

    def image(self, service: str) -> dict[str, Any]:
        """What Docker knows of a service's image."""
        return dict(json.loads(output("docker", "inspect", self.inspect(service)["Image"]))[0])

    def inside(self, service: str, *command: str) -> str:
        """Output of a command in a service's container."""
        return self.compose("exec", "-T", service, *command)

    def pid(self, service: str) -> int:
        """A service's own process, below Docker's init, as this host numbers it."""
        init = self.inspect(service)["State"]["Pid"]
        return int(Path(f"/proc/{init}/task/{init}/children").read_text().split()[0])

    def wait_for_health(self, service: str, status: str) -> None:
        """Wait until Docker calls a service so."""
        wait_for(
            lambda: self.inspect(service)["State"]["Health"]["Status"] == status, f"{service} is not {status}"
        )

    def worldloop(self, *arguments: str, key: bool = True, **options: Any) -> subprocess.Popen[str]:
        """A command of the host's worldloop, with the operator's key."""
        ours = {
            "PYTHONPATH": str(self.copy),
            "WORLDLOOP_NATS_URL": f"tls://127.0.0.1:{self.nats_port}",
            "WORLDLOOP_NATS_CA": str(self.keys / "ca.pem"),
            "WORLDLOOP_STATE_DIR": str(self.scratch / "state"),
            "WORLDLOOP_CACHE_DIR": str(self.scratch / "cache"),
        }
        if key:
            ours["WORLDLOOP_NATS_KEY"] = str(self.keys / "operator.nk")
        command = [sys.executable, "-m", "services.cli", *arguments]
        return subprocess.Popen(command, cwd=self.scratch, text=True, env=self.environ | ours, **options)

    def ask(self, *arguments: str, key: bool = True) -> tuple[int, str]:
        """Exit code and output of a command of the host's worldloop."""
        process = self.worldloop(*arguments, key=key, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        text, _ = process.communicate()
        return process.returncode, text

    def tell_logs(self) -> None:
        """Print the end of every container's log, if there are any."""
        with contextlib.suppress(Broken):
            print(self.compose("logs", "--tail", "30"), flush=True)

    def remove(self) -> None:
        """Containers, networks, volumes and images of this project."""
        both = {"COMPOSE_PROFILES": "cpu,gpu"}
        self.compose("down", "--volumes", "--remove-orphans", "--rmi", "local", "--timeout", "5", **both)
        for kind in (("ps", "--all"), ("volume", "ls"), ("network", "ls"), ("image", "ls")):
            left = output("docker", *kind, "--quiet", *labelled())
            hold(not left, f"`docker {' '.join(kind)}` still has {left.split()} of {PROJECT}")


def labelled(*more: str) -> list[str]:
    """Docker's filters for what is of this project."""
    labels = (f"project={PROJECT}", *more)
    return [word for label in labels for word in ("--filter", f"label=com.docker.compose.{label}")]


def wait_for(condition: Callable[[], bool], problem: str) -> None:
    """Until it holds."""
    end = time.monotonic() + BACK_SEC
    while not condition():
        hold(time.monotonic() < end, f"{problem} within {BACK_SEC:.0f} s")
        time.sleep(0.2)


def output(*command: str, **options: Any) -> str:
    """What a command prints.

    Raises:
        Broken: It failed; says how.
    """
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, check=False, **options
    )
    hold(done.returncode == 0, f"{' '.join(command)}: {done.stderr[-3000:]}{done.stdout[-2000:]}")
    return done.stdout


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def saw(text: str) -> None:
    """Tell what was seen."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def hold(kept: bool, promise: str) -> None:
    """Go on if a promise was kept.

    Raises:
        Broken: It was not.
    """
    if not kept:
        raise Broken(promise)
