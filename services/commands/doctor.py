"""`worldloop doctor`: what this machine has, and which commands will work on it."""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from services import nats_server, stack_state
from services.commands.machine import Nvml, nvml, torch_version, usable_gpus
from services.commands.terminal.output import CleanConsole, say_json
from shared.bus.identity import shown
from shared.datasets.names import GAMES, dataset_path
from shared.errors import ConfigurationError
from shared.settings import Settings

MIN_FREE_BYTES = 5 * 2**30
"""Less free disk than this is worth a word."""
ASK_SEC = 20.0
"""How long a program asked for its version may take."""
CUDA_QUESTION = """
import json, torch
print(json.dumps([torch.version.cuda, torch.cuda.is_available(), torch.cuda.device_count()]))
"""
MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]!![/]", "missing": "[red]--[/]"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "warn", "missing"]
    detail: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Ability:
    """Whether a command will work here."""

    command: str
    works: bool
    needs: str = ""
    """What is missing."""


def doctor(*, root: Path, data: Path, as_json: bool) -> int:
    """Print what there is; 0 if `worldloop train` will work, else 1."""
    settings = Settings()
    graphics = nvml()
    findings = [
        _python(),
        _torch(),
        _gpus(graphics),
        _nats(),
        *_packages(),
        *_datasets(data),
        _disk(root),
        _stack(settings),
    ]
    able = abilities(findings)
    if as_json:
        report: dict[str, Any] = {
            "findings": [asdict(finding) for finding in findings],
            "commands": [asdict(ability) for ability in able],
            "gpus": [asdict(gpu) for gpu in graphics.gpus],
            "usable_gpus": usable_gpus(),
        }
        say_json(json.dumps(report, indent=2))
    else:
        _show(findings, able)
    return 0 if all(ability.works for ability in able if ability.command == "worldloop train") else 1


def abilities(findings: list[Finding]) -> list[Ability]:
    """Which commands will work, from what was found."""
    missing = {finding.name for finding in findings if finding.state == "missing"}

    def ability(command: str, *needs: str) -> Ability:
        lacking = [need for need in needs if need in missing]
        return Ability(command, not lacking, ", ".join(lacking))

    return [
        ability("worldloop up", "nats-server"),
        ability("worldloop train", "nats-server", "torch", "h5py", "pillow"),
        ability("worldloop data download, models", "huggingface-hub", "h5py"),
        ability("worldloop data ingest", "av", "h5py", "pillow"),
        ability("worldloop data record", "gymnasium", "h5py", "pillow"),
        ability("worldloop data inspect", "h5py", "pillow"),
        ability("worldloop status, events RUN"),
    ]


def _python() -> Finding:
    version = platform.python_version()
    return Finding("python", "ok", f"{version} ({sys.executable}) on {platform.platform()}")


def _torch() -> Finding:
    """Ask torch in a process of its own: importing it here would take seconds and memory."""
    version = torch_version()
    if version is None:
        return Finding("torch", "missing", "not installed", "pip install 'worldloop[trainer]'")
    try:
        asked = subprocess.run(
            [sys.executable, "-c", CUDA_QUESTION], capture_output=True, text=True, timeout=ASK_SEC, check=True
        )
        cuda, available, count = json.loads(asked.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding("torch", "missing", f"{version} cannot be imported: {last}", "Install it again")
    except subprocess.TimeoutExpired:
        return Finding("torch", "warn", f"{version}; did not say within {ASK_SEC:.0f} s whether it sees CUDA")
    if available:
        return Finding("torch", "ok", f"{version}, CUDA {cuda}, {count} GPU(s)")
    return Finding(
        "torch", "ok", f"{version}, {f'CUDA {cuda} build but no GPU usable' if cuda else 'CPU build'}"
    )


def _gpus(found: Nvml) -> Finding:
    if found.gpus:
        names = ", ".join(
            f"{gpu.index}: {gpu.name} ({gpu.memory_bytes / 2**30:.0f} GiB)" for gpu in found.gpus
        )
        return Finding("gpus", "ok", f"{names}; driver {found.driver}")
    return Finding("gpus", "warn", f"none ({found.problem or 'NVML lists none'}); runs train on the CPU")


def _nats() -> Finding:
    try:
        program = nats_server.find()
        asked = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=ASK_SEC, check=True
        )
    except ConfigurationError as error:
        return Finding("nats-server", "missing", error.problem, error.cure)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("nats-server", "missing", f"{program} does not run: {error}", "Install it again")
    return Finding("nats-server", "ok", f"{asked.stdout.strip().removeprefix('nats-server: ')} ({program})")


def _packages() -> list[Finding]:
    wanted = {
        "h5py": ("h5py", "trainer"),
        "pillow": ("PIL", "trainer"),
        "gymnasium": ("gymnasium", "data"),
        "ale-py": ("ale_py", "data"),
        "av": ("av", "data"),
        "huggingface-hub": ("huggingface_hub", "data"),
        "matplotlib": ("matplotlib", "reporter"),
        "wandb": ("wandb", "trainer"),
    }
    return [
        Finding(name, "ok", "installed")
        if importlib.util.find_spec(module)
        else Finding(name, "missing", "not installed", f"pip install 'worldloop[{extra}]'")
        for name, (module, extra) in wanted.items()
    ]


def _datasets(data: Path) -> list[Finding]:
    files = sorted(
        {*data.glob("*_frames.h5")} | {path for game in GAMES if (path := dataset_path(game, data)).is_file()}
    )
    if not files:
        return [
            Finding(
                "datasets",
                "warn",
                f"no *_frames.h5 in {data.absolute()}",
                "worldloop data record --env ALE/Pong-v5",
            )
        ]
    return [
        Finding(
            "datasets", "ok", ", ".join(f"{path} ({path.stat().st_size / 2**20:.0f} MiB)" for path in files)
        )
    ]


def _disk(root: Path) -> Finding:
    place = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    detail = f"{free / 2**30:.1f} GiB free for {root}"
    return (
        Finding("disk", "ok", detail)
        if free >= MIN_FREE_BYTES
        else Finding("disk", "warn", detail, "Free some space")
    )


def _stack(settings: Settings) -> Finding:
    if settings.nats_url:
        return Finding("stack", "ok", f"server {shown(settings.nats_url)} (WORLDLOOP_NATS_URL)")
    running = stack_state.state(settings)
    if running is None or not running.alive:
        return Finding("stack", "ok", "not running; `worldloop train` starts it")
    if running.problems:
        return Finding("stack", "warn", "; ".join(running.problems), "worldloop down, then look at the log")
    return Finding(
        "stack", "ok", f"up at {running.url}, {', '.join(child.name for child in running.children)}"
    )


def _show(findings: list[Finding], able: list[Ability]) -> None:
    console = CleanConsole()
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        detail = f"{finding.detail}. {finding.cure}" if finding.cure else finding.detail
        table.add_row(MARKS[finding.state], finding.name, Text(detail))
    console.print(table)
    console.print()
    table = Table(box=None, show_header=False, pad_edge=False)
    for ability in able:
        table.add_row(
            MARKS["ok" if ability.works else "missing"],
            ability.command,
            "" if ability.works else f"needs {ability.needs}",
        )
    console.print(table)
