"""`worldloop monitor gpus`: what the monitor would read now, and what its dual-GPU check would say."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal

import psutil
from rich.text import Text

from services.commands.terminal.output import CleanConsole, say_json
from services.monitor.config import Policy
from services.monitor.core.gpu import Activity, GpuReading, Sample, activity
from services.monitor.gpus import Gpus, Nvml
from services.trainer.guard import launcher
from shared.errors import GpuError
from shared.events import Value
from shared.settings import Settings

PAUSE_SEC = 1.0
"""Between two readings: drivers average utilization over up to a second."""
WIDTH = 80
"""A process takes one line of a narrow terminal."""
INDENT = 4
ROLES = {"ours": "training of this stack", "other": "training, not of this stack"}


class GpuProcess(Value):
    """A process on a GPU."""

    pid: int
    user: str | None
    """None for a process that is not visible here: it ended, or lives in another container."""
    command: str | None
    launcher: Literal["ours", "other"] | None
    """Whether it is a training launcher or rank, and whether of this stack."""


def monitor_gpus(*, as_json: bool, gpus: Gpus | None = None) -> int:
    """Read the GPUs as often as the check wants, and print them; 0 if there are some.

    Args:
        as_json: One JSON object: `gpus`, `dual_gpu`, `problem`.
        gpus: Those of this machine by default.
    """
    policy, stack = Policy(), Settings().state_dir
    samples, problem = list[Sample](), None
    try:
        samples = _samples(gpus or Nvml(), policy, stack)
    except GpuError as error:
        problem = str(error)
    if samples and not samples[-1].gpus:
        problem = "the driver answers, but there is no GPU"
    readings = samples[-1].gpus if samples else []
    people = {pid: _process(pid, stack) for gpu in readings for pid in gpu.pids}
    found = activity(samples, policy)
    why = explain(found, policy, len(samples))
    if as_json:
        _print_json(readings, people, found, why, problem)
    else:
        _print(readings, people, found, why, problem)
    return 0 if problem is None else 1


def explain(found: Activity, policy: Policy, samples: int) -> str:
    """What the check's answer rests on, in a sentence.

    Args:
        found: The activity.
        policy: By which it was judged.
        samples: How many readings it had.
    """
    if len(found.gpus) < 2:
        return (
            f"{len(found.gpus)} GPU could be read, and it takes two" if found.gpus else "no GPU could be read"
        )
    if found.decided_by == "utilization":
        active = ", ".join(f"GPU {gpu.index} in {gpu.active_samples}" for gpu in found.gpus)
        return f"at or above {policy.gpu_util_threshold:g} % in {samples} readings: {active}"
    hidden = ", ".join(str(gpu.index) for gpu in found.gpus if gpu.max_utilization is None)
    ours = ", ".join(str(gpu.index) for gpu in found.gpus if gpu.ours)
    where = f"on GPU {ours}" if ours else "on no GPU"
    return f"utilization cannot be read on GPU {hidden}; training of this stack is {where}"


def _samples(gpus: Gpus, policy: Policy, stack: Path) -> list[Sample]:
    samples: list[Sample] = []
    while len(samples) < policy.gpu_required_samples:
        if samples:
            time.sleep(PAUSE_SEC)
        readings = [_claimed(gpu, stack) for gpu in gpus.read(0)]
        samples.append(Sample(time=time.time(), gpus=readings))
        if not readings:
            break
    return samples


def _claimed(gpu: GpuReading, stack: Path) -> GpuReading:
    """With `ours` by who this stack's launchers are: no chunk says here which one it is about."""
    ours = any(_process(pid, stack).launcher == "ours" for pid in gpu.pids)
    return gpu.model_copy(update={"ours": ours})


def _process(pid: int, stack: Path) -> GpuProcess:
    try:
        process = psutil.Process(pid)
        found = launcher(process, stack, None)
        return GpuProcess(
            pid=pid,
            user=process.username(),
            command=" ".join(process.cmdline()) or process.name(),
            launcher=None if found is None else "ours" if found.ours else "other",
        )
    except psutil.AccessDenied:
        return GpuProcess(pid=pid, user=process.username(), command=process.name(), launcher=None)
    except psutil.NoSuchProcess:
        return GpuProcess(pid=pid, user=None, command=None, launcher=None)


def _print_json(
    readings: list[GpuReading], people: dict[int, GpuProcess], found: Activity, why: str, problem: str | None
) -> None:
    report: dict[str, Any] = {
        "gpus": [
            gpu.model_dump(exclude={"ours", "pids"})
            | {"processes": [people[pid].model_dump() for pid in gpu.pids]}
            for gpu in readings
        ],
        "dual_gpu": {
            "ok": found.dual_gpu_ok if problem is None else None,
            "decided_by": found.decided_by if problem is None else None,
            "why": why,
        },
        "problem": problem,
    }
    say_json(json.dumps(report, indent=2))


def _print(
    readings: list[GpuReading], people: dict[int, GpuProcess], found: Activity, why: str, problem: str | None
) -> None:
    console = CleanConsole(soft_wrap=True, highlight=False)
    for gpu in readings:
        console.print(Text(_line(gpu)))
        for each in gpu.instances:
            memory = _memory(each.memory_bytes, each.memory_total_bytes)
            console.print(Text(f"    instance {each.index}: {memory}"))
        for pid in gpu.pids:
            console.print(Text(" " * INDENT + _who(people[pid])))
        if not gpu.pids and not gpu.lost:
            console.print(Text("    no processes shown"))
    if problem is not None:
        console.print(Text(f"No GPU can be read: {problem}."))
        console.print(Text("Runs train on the CPU here, and their evidence is each rank's CPU time."))
        return
    answer = "true" if found.dual_gpu_ok else "false"
    console.print(Text(f"The dual-GPU check would say {answer}, by {found.decided_by}:"))
    console.print(Text(f"    {why}."))
    if not any(person.launcher == "ours" for person in people.values()):
        console.print(Text("No training of this stack was seen on a GPU (a container may hide processes)."))


def _line(gpu: GpuReading) -> str:
    if gpu.lost:
        return f"GPU {gpu.index}: cannot be read: {gpu.problem}"
    percent = "utilization not readable" if gpu.utilization is None else f"{gpu.utilization:.0f} %"
    partitioned = f", {len(gpu.instances)} MIG instances" if gpu.instances else ""
    problem = f" (not all could be read: {gpu.problem})" if gpu.problem else ""
    memory = _memory(gpu.memory_bytes, gpu.memory_total_bytes)
    return f"GPU {gpu.index}: {gpu.name or 'no name'}, {percent}, {memory}{partitioned}{problem}"


def _memory(used: int, total: int) -> str:
    return f"{used / 2**30:.1f} of {total / 2**30:.1f} GiB" if total else "memory not readable"


def _who(person: GpuProcess) -> str:
    if person.command is None:
        return f"{person.pid}  not visible here: it ended, or lives in another container"
    role = f"[{ROLES[person.launcher]}]  " if person.launcher else ""
    program, space, arguments = person.command.partition(" ")
    line = f"{person.pid}  {person.user}  {role}{program.rpartition('/')[2]}{space}{arguments}"
    return line if len(line) <= WIDTH - INDENT else line[: WIDTH - INDENT - 3] + "..."
