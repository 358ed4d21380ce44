"""What the containers may do, whom they let in, and whether their health is true."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from typing import Any

from docker.check.stack import SERVICES, Stack, hold, output, saw

REACHABLE = ("nats", "reporter")
"""What listens on the host's loopback, and has a way out."""
GPU_SERVICES = ("trainer-gpu", "monitor-gpu", "inference-gpu")
ALL_GPUS = ("nvidia", -1, [["gpu"]])


def confined(stack: Stack) -> None:
    """Nobody is root, may write beyond its volumes, sees another's key, or has a way out it does not need."""
    for service in SERVICES:
        about = stack.inspect(service)
        host = about["HostConfig"]
        hold(about["Config"]["User"] == "10001:10001", f"{service} runs as {about['Config']['User']}")
        hold(host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"], f"{service} is not confined")
        hold("no-new-privileges:true" in host["SecurityOpt"], f"{service} could gain privileges")
        hold(host["Memory"] > 0 and host["PidsLimit"] > 0, f"{service} has no limits")
        status = stack.inside(service, "cat", "/proc/self/status")
        hold("CapEff:\t0000000000000000" in status, f"{service} has capabilities")
        for place in ("/probe", "/usr/probe", "/keys/probe"):
            made = stack.inside(service, "sh", "-c", f"touch {place} 2>/dev/null && echo made || true")
            hold(not made, f"{service} can write {place}")
        ports = [each for bound in (host["PortBindings"] or {}).values() for each in bound]
        hold(bool(ports) == (service in REACHABLE), f"{service} listens on {ports}")
        hold(all(each["HostIp"] == "127.0.0.1" for each in ports), f"{service} listens on {ports}")
        out = not all(_is_internal(network) for network in about["NetworkSettings"]["Networks"].values())
        hold(out == (service in REACHABLE), f"{service} has a way out: {out}")
        keys = stack.inside(service, "ls", "/keys").split()
        saw(
            f"container {service}: uid 10001, read-only, no capabilities, {host['Memory'] >> 20} MiB, "
            f"way out: {out}; its keys: {' '.join(keys)}"
        )
        seeds = [name for name in keys if name.endswith(".nk")]
        hold(seeds == ([] if service == "nats" else [f"{service}.nk"]), f"{service} sees {seeds}")


def gpus(stack: Stack) -> None:
    """With `--profile gpu` the same three services, and no others, get all GPUs. Made, not started."""
    names = stack.compose("--profile", "gpu", "config", "--services").split()
    hold(sorted(names) == sorted({*GPU_SERVICES, "gatekeeper", "reporter", "nats", "keys"}), f"{names}")
    stack.compose("--profile", "gpu", "create", "--build", *GPU_SERVICES)
    for service in GPU_SERVICES:
        plain = stack.inspect(service.removesuffix("-gpu"))["HostConfig"]
        made = stack.inspect(service)["HostConfig"]
        asked = [(each["Driver"], each["Count"], each["Capabilities"]) for each in made["DeviceRequests"]]
        hold(asked == [ALL_GPUS], f"{service} asks for {asked}")
        hold(not plain["DeviceRequests"], f"{service} without GPUs asks for {plain['DeviceRequests']}")
        for what in ("Binds", "Memory", "PidsLimit", "ReadonlyRootfs", "CapDrop", "Tmpfs"):
            hold(made[what] == plain[what], f"{service} has another {what}: {made[what]}")
    stack.compose("--profile", "gpu", "rm", "--force", *GPU_SERVICES)
    saw(f"--profile gpu: {', '.join(GPU_SERVICES)} with all GPUs, in place of those without")


def strangers(stack: Stack) -> None:
    """Without a key nothing is told, neither by the server nor by the page."""
    code, text = stack.ask("status", key=False)
    saw(f"without a key: {text.strip().splitlines()[-1]}")
    hold(code != 0, "the server talks to somebody without a key")
    token = (stack.keys / "page-token").read_text().strip()
    answers = _page(stack, None), _page(stack, token)
    saw(f"the page at 127.0.0.1:{stack.page_port}: {answers[0]} without its token, {answers[1]} with it")
    hold(answers == (401, 200), "the page does not ask for its token")


def health(stack: Stack) -> None:
    """What hangs is unhealthy, and healthy again when it goes on."""
    process = stack.pid("reporter")
    os.kill(process, signal.SIGSTOP)
    began = time.monotonic()
    try:
        stack.wait_for_health("reporter", "unhealthy")
        took = time.monotonic() - began
    finally:
        os.kill(process, signal.SIGCONT)
    stack.wait_for_health("reporter", "healthy")
    saw(f"the reporter, stopped by a signal: unhealthy after {took:.0f} s, healthy when it went on")


def _is_internal(network: dict[str, Any]) -> bool:
    """Whether Docker forwards nothing between a network and others."""
    return bool(json.loads(output("docker", "network", "inspect", network["NetworkID"]))[0]["Internal"])


def _page(stack: Stack, token: str | None) -> int:
    """Status of the page's list of runs."""
    request = urllib.request.Request(f"http://127.0.0.1:{stack.page_port}/api/runs")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
