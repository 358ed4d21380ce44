"""`make compose-check`: what docs/deployment.md promises of compose.yaml, seen on a machine with Docker.

In a fresh copy of the checkout: build, start, look at images and containers, train the demo from the host
with the operator's key while every service and the server are killed with kill -9, and replay the bundle.
Needs Docker Compose and root (the kills go by host pid: after `docker kill` Docker restarts nothing). Takes a
quarter of an hour on two cores, leaves nothing behind, and exits with 1 at the first broken promise.

    python docker/check.py RECORDING [WORDS for `worldloop train`, to train less than the demo]
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MAX_MB = {"gatekeeper": 250, "monitor": 300, "reporter": 550}
"""Largest images, MB as Docker counts them; those that are named must not have torch."""
VICTIMS = ("nats", "trainer", "monitor", "gatekeeper", "reporter", "inference")
"""Killed one after the other, each after one more gate."""
INTO_THE_CHUNK_SEC = 6.0
"""From a gate to the kill after it, so that the next chunk is being trained."""
BACK_SEC = 120.0
"""How long something that was killed may take until it is healthy again."""


class Broken(Exception):
    """A promise is broken."""


def main(dataset: Path, words: Sequence[str]) -> None:
    """Check everything; the work directory and the containers are removed whatever happens."""
    with tempfile.TemporaryDirectory(prefix="worldloop-compose-") as scratch:
        stack = Stack(Path(scratch))
        try:
            stack.start()
            images(stack)
            containers(stack)
            strangers(stack)
            run_id = train(stack, dataset.absolute(), words)
            bundle(stack, run_id)
        finally:
            stack.remove()
    print("every promise was kept")


class Stack:
    """A fresh copy of the checkout as a Compose project of its own, on free ports."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.copy, self.keys = scratch, scratch / "copy", scratch / "keys"
        self.nats_port, self.page_port = free_port(), free_port()
        self.environ = os.environ | {
            "COMPOSE_PROJECT_NAME": "worldloop-check",
            "WORLDLOOP_NATS_PORT": str(self.nats_port),
            "WORLDLOOP_PAGE_PORT": str(self.page_port),
        }

    def start(self) -> None:
        """What git knows of the checkout, then `docker compose up`, and nothing in between."""
        names = output("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split(
            "\0"
        )
        for name in names:
            if (ROOT / name).is_file():
                (self.copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, self.copy / name)
        began = time.monotonic()
        self.compose("up", "--detach", "--build", "--wait")
        saw(f"docker compose up in a fresh copy: built and healthy after {time.monotonic() - began:.0f} s")
        self.compose("cp", "keys:/keys/operator", str(self.keys))

    def compose(self, *arguments: str) -> str:
        """Output of a Compose command."""
        return output("docker", "compose", *arguments, cwd=self.copy, env=self.environ)

    def inspect(self, service: str) -> dict[str, Any]:
        """What Docker knows of a service's container."""
        container = self.compose("ps", "--all", "--quiet", service).strip()
        return dict(json.loads(output("docker", "inspect", container))[0])

    def worldloop(self, *arguments: str, key: bool = True, **options: Any) -> subprocess.Popen[str]:
        """A command of the host's worldloop, with the operator's key."""
        return subprocess.Popen(
            [sys.executable, "-m", "services.cli", *arguments],
            cwd=self.scratch,
            text=True,
            env=os.environ
            | {
                "PYTHONPATH": str(self.copy),
                "WORLDLOOP_NATS_URL": f"tls://127.0.0.1:{self.nats_port}",
                "WORLDLOOP_NATS_CA": str(self.keys / "ca.pem"),
            }
            | ({"WORLDLOOP_NATS_KEY": str(self.keys / "operator.nk")} if key else {}),
            **options,
        )

    def ask(self, *arguments: str, key: bool = True) -> tuple[int, str]:
        """Exit code and output of a command of the host's worldloop."""
        process = self.worldloop(*arguments, key=key, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        text, _ = process.communicate()
        return process.returncode, text

    def remove(self) -> None:
        """Containers, volumes and images of this project."""
        if self.copy.is_dir():
            self.compose("down", "--volumes", "--rmi", "local", "--timeout", "5")


def images(stack: Stack) -> None:
    """Small, and torch only where it belongs."""
    for service in ("gatekeeper", "monitor", "reporter", "trainer", "inference"):
        size = int(json.loads(output("docker", "inspect", stack.inspect(service)["Image"]))[0]["Size"]) / 1e6
        look = "import importlib.util as u; print(u.find_spec('torch') is not None)"
        torch = stack.compose("exec", "-T", service, "python3", "-c", look).strip() == "True"
        saw(f"image {service}: {size:.0f} MB, torch: {torch}")
        limit = MAX_MB.get(service)
        hold(torch == (limit is None), f"{service} has torch: {torch}")
        hold(limit is None or size < limit, f"{service} is larger than {limit} MB")


def containers(stack: Stack) -> None:
    """Nobody is root, may write beyond its volumes, sees another's key, or listens for other hosts."""
    for service in VICTIMS:
        about = stack.inspect(service)
        host = about["HostConfig"]
        hold(about["Config"]["User"] == "10001:10001", f"{service} runs as {about['Config']['User']}")
        hold(host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"], f"{service} is not confined")
        hold("no-new-privileges:true" in host["SecurityOpt"], f"{service} could gain privileges")
        hold(host["Memory"] > 0 and host["PidsLimit"] > 0, f"{service} has no limits")
        ports = [each for bound in (host["PortBindings"] or {}).values() for each in bound]
        hold(all(each["HostIp"] == "127.0.0.1" for each in ports), f"{service} listens on {ports}")
        keys = stack.compose("exec", "-T", service, "ls", "/keys").split()
        saw(f"container {service}: uid 10001, read-only, no capabilities; its keys: {' '.join(keys)}")
        seeds = [name for name in keys if name.endswith(".nk")]
        hold(seeds == ([] if service == "nats" else [f"{service}.nk"]), f"{service} sees {seeds}")


def strangers(stack: Stack) -> None:
    """Without a key nothing is told, neither by the server nor by the page."""
    code, text = stack.ask("status", key=False)
    saw(f"without a key: {text.strip().splitlines()[-1]}")
    hold(code != 0, "the server talks to somebody without a key")
    token = (stack.keys / "page-token").read_text().strip()
    answers = page(stack, None), page(stack, token)
    saw(f"the page at 127.0.0.1:{stack.page_port}: {answers[0]} without its token, {answers[1]} with it")
    hold(answers == (401, 200), "the page does not ask for its token")


def page(stack: Stack, token: str | None) -> int:
    """Status of the page's list of runs."""
    request = urllib.request.Request(f"http://127.0.0.1:{stack.page_port}/api/runs")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def train(stack: Stack, dataset: Path, words: Sequence[str]) -> str:
    """The demo from the host to `passed`, with everything killed once; its run id."""
    stack.compose("cp", str(dataset), "trainer:/data/")
    log = stack.scratch / "train.log"
    with log.open("w") as stream:
        asked = ("train", "--profile", "demo", "--dataset", str(dataset), *words)
        training = stack.worldloop(*asked, stdout=stream, stderr=subprocess.STDOUT)
    victims = list(VICTIMS)
    try:
        while training.poll() is None:
            gates = log.read_text().count("  gate ")
            if victims and gates > len(VICTIMS) - len(victims):
                time.sleep(INTO_THE_CHUNK_SEC)
                kill(stack, victims.pop(0))
            time.sleep(0.5)
    finally:
        training.kill()
        training.wait()
    text = log.read_text()
    print(text)
    hold(training.returncode == 0 and "finished: passed" in text, "the run has not passed")
    hold(not victims, f"the run was over before {victims} could be killed")
    return text.partition("run ")[2].partition(",")[0]


def kill(stack: Stack, service: str) -> None:
    """End a service's process by its pid on this host, and wait until its container is healthy again."""
    before = stack.inspect(service)
    init = before["State"]["Pid"]
    pid = int(Path(f"/proc/{init}/task/{init}/children").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()

    def back() -> bool:
        now = stack.inspect(service)
        again: bool = now["RestartCount"] > before["RestartCount"]
        return again and now["State"]["Health"]["Status"] == "healthy"

    wait_for(back, f"{service} did not come back")
    saw(f"kill -9 {pid} ({service}): restarted by Docker, healthy after {time.monotonic() - began:.0f} s")


def bundle(stack: Stack, run_id: str) -> None:
    """One decision a gate; and the bundle, copied out, decides the same again."""
    code, text = stack.ask("events", run_id, "--json")
    hold(code == 0, text)
    events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    gates = [event["data"] for event in events if event["type"].endswith(".gate_decided")]
    decided = [(gate["stage"], gate["attempt"], gate.get("inference_try")) for gate in gates]
    saw(f"{len(gates)} gates: {', '.join(gate['decision'] for gate in gates)}")
    hold(len(set(decided)) == len(decided), "a gate was decided twice")
    stack.compose("cp", f"reporter:/runs/{run_id}", str(stack.scratch / run_id))
    code, text = stack.ask("replay", str(stack.scratch / run_id))
    saw(f"replay of the bundle, copied out of its volume: exit code {code}")
    hold(code == 0, text)


def wait_for(condition: Callable[[], bool], problem: str) -> None:
    """Until it holds."""
    end = time.monotonic() + BACK_SEC
    while not condition():
        hold(time.monotonic() < end, f"{problem} within {BACK_SEC:.0f} s")
        time.sleep(0.5)


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
    """Go on if a promise was kept."""
    if not kept:
        raise Broken(promise)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """A broken promise is one line and exit code 1."""
    try:
        yield
    except Broken as broken:
        sys.exit(f"broken: {broken}")


if __name__ == "__main__":
    with one_line():
        if os.getuid() != 0:
            sys.exit("root is needed: the services are killed by their pids on this host")
        main(Path(sys.argv[1]), sys.argv[2:])
