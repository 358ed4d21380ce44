"""A world of its own for a test: the real CLI, stack, services and torchrun, in a temporary directory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
PONG = ROOT / "tests" / "fixtures" / "pong_frames.h5"

TINY = """
training:
  frame_size: 64
  patch_size: 16
  fps: 60
  nproc_per_node: 2
video_tokenizer: &stage
  batch_size_per_gpu: 4
  learning_rate: 3.0e-3
  log_interval: 4
  n_updates: 24
  embed_dim: 24
  num_heads: 2
  hidden_dim: 32
  num_blocks: 1
latent_actions: *stage
dynamics: *stage
inference:
  temperature: 0
  max_mse: 1.0
  clips: 2
policy:
  gatekeeper:
    chunk: {video_tokenizer: 8, latent_actions: 8, dynamics: 8}
    limits:  # a model this small, trained this briefly, is judged by whether the loop works
      video_tokenizer: {continue_final_loss: 10, watch_final_loss: 10}
      latent_actions:
        continue_final_loss: 10
        continue_unique_actions: 1
        continue_action_entropy: 0
        watch_final_loss: 10
        watch_unique_actions: 1
      dynamics: {continue_final_loss: 100, collapse_final_loss: 100}
    visual: {binds: []}
"""


class World:
    """A directory with configs, a dataset and an environment, and the processes that were started in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        shutil.copytree(ROOT / "configs", directory / "configs")
        (directory / "configs" / "profiles" / "tiny.yaml").write_text(TINY)
        (directory / "data").mkdir()
        shutil.copy(PONG, directory / "data" / "pong_frames.h5")
        (directory / "home").mkdir()
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("WORLDLOOP_", "WANDB_"))
        } | {
            "HOME": str(directory / "home"),
            "WORLDLOOP_STATE_DIR": str(directory / "state"),
            "WORLDLOOP_CACHE_DIR": str(directory / "cache"),
            "WORLDLOOP_NOTIFY_FILE": str(directory / "notify.yaml"),
            "COLUMNS": "200",
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "services.cli", *arguments]

    def run(
        self, *arguments: str, code: int | None = 0, timeout: float = 390
    ) -> subprocess.CompletedProcess[str]:
        """Run the CLI to its end."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if code is not None:
            assert done.returncode == code, f"{arguments}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run the CLI beside the test; its output goes to a file."""
        with (self.directory / "cli.log").open("a") as output:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=self.directory,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def train(self, *arguments: str) -> list[str]:
        """Arguments of a tiny run."""
        return ["train", "--profile", "tiny", *arguments]

    def bundle(self) -> Path:
        """The newest run's bundle."""
        return max((self.directory / "runs").iterdir())

    def events(self, bundle: Path | None = None) -> list[dict[str, Any]]:
        """What the bundle's event file holds."""
        path = (bundle or self.bundle()) / "Logs" / "events.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def named(self, name: str, bundle: Path | None = None) -> list[dict[str, Any]]:
        """Data of the events of one name."""
        return [each["data"] for each in self.events(bundle) if each["type"].endswith(f".{name}")]

    def wait(self, what: str, condition: Callable[[], object], timeout: float = 240) -> None:
        """Wait for something to become true."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"waited in vain for {what}\n{self.logs()}"
            time.sleep(0.05)

    def processes(self) -> dict[str, psutil.Process]:
        """The stack's living processes by name."""
        state = self.directory / "state" / "stack.json"
        if not state.exists():
            return {}
        found = {}
        stack = json.loads(state.read_text())
        for child in (stack["supervisor"], *stack["children"]):
            try:
                process = psutil.Process(child["pid"])
                same = abs(process.create_time() - child["created"]) < 1
                if same and process.status() != psutil.STATUS_ZOMBIE:
                    found[child["name"]] = process
            except psutil.NoSuchProcess:
                continue
        return found

    def ranks(self) -> list[psutil.Process]:
        """The training processes of this world's stack that hold a rank."""
        found = []
        for process in psutil.process_iter():
            try:
                environment = process.environ()
            except (psutil.Error, OSError):
                continue
            ours = environment.get("WORLDLOOP_STACK") == str(self.directory / "state")
            if ours and "LOCAL_RANK" in environment:
                found.append(process)
        return sorted(found, key=lambda each: each.pid)

    def logs(self) -> str:
        """The ends of all logs, for a failing test."""
        files = [*self.directory.glob("*.log"), *self.directory.glob("state/logs/*.log")]
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in sorted(files)
        )

    def close(self) -> None:
        """End the stack and whatever it left."""
        if (self.directory / "state" / "stack.json").exists():
            self.run("down", code=None)
        for process in [*self.processes().values(), *self.ranks()]:
            process.send_signal(signal.SIGKILL)
