"""A world (`tests.e2e.world`) to break: the real CLI, stack, services, nats-server and torchrun."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from tests.e2e.test_closed_loop import flat
from tests.e2e.world import TINY, World

SERVICES = ("gatekeeper", "trainer", "monitor", "inference", "reporter")
STAGES = ("video_tokenizer", "latent_actions", "dynamics")
KINDS = {"loop", "git", "wandb", "retrospective", "inference"}
TARGET, CHUNK, INTERVAL = 144, 72, 12
POLICY = """
    evidence_timeout_sec: 10
    command_timeout_sec: {chunk: 12, evaluate_inference: 12, write_reports: 12}
  trainer: {hang_timeout_sec: 240, kill_grace_sec: 1, min_free_disk_mb: 0}
"""
"""Every timeout is short, so that a process can be stopped for longer than each."""
LONG_SEC = 14.0
"""Longer than each of them, the bus's own ack wait included."""


class Deployment(World):
    """A world whose runs take about half a minute, with everything that is asserted about them."""

    def __init__(self, directory: Path, *, target: int = TARGET, chunk: int = CHUNK) -> None:
        super().__init__(directory)
        self.target = target
        profile = (
            TINY.replace("n_updates: 24", f"n_updates: {target}")
            .replace("log_interval: 4", f"log_interval: {INTERVAL}")
            .replace(
                "video_tokenizer: 8, latent_actions: 8, dynamics: 8",
                ", ".join(f"{s}: {chunk}" for s in STAGES),
            )
        )
        (directory / "configs" / "profiles" / "tiny.yaml").write_text(profile.rstrip() + POLICY)
        self.environment["WORLDLOOP_PAGE_PORT"] = "0"
        self.environment["OMP_NUM_THREADS"] = "1"

    def one_stage(self) -> list[str]:
        """Arguments of the shortest run: two chunks of the first stage, and the reports."""
        return self.train("--only-stage", STAGES[0])

    def quiet(self, *arguments: str) -> Deployment:
        """This world, after a run that nobody disturbs."""
        self.run(*arguments, timeout=1200)
        self.promises(relaunches=0)
        assert {gate["decision"] for gate in self.named("gate_decided")} == {"continue"}, self.logs()
        self.close()
        return self

    def wait(self, what: str, condition: Callable[[], object], timeout: float = 400) -> None:
        """As every world, with the patience that a busy machine needs."""
        super().wait(what, condition, timeout)

    def expects(self, old: str, new: str) -> None:
        """Have runs that are started from now on go by another value of the profile."""
        profile = self.directory / "configs" / "profiles" / "tiny.yaml"
        text = profile.read_text()
        assert old in text
        profile.write_text(text.replace(old, new))

    # --- looking ------------------------------------------------------------------------------------------

    def seen(self, name: str) -> list[dict[str, Any]]:
        """Events of a name so far; none before there is a run."""
        runs = self.directory / "runs"
        return self.named(name) if runs.is_dir() and any(runs.iterdir()) else []

    def chunks(self, count: int) -> None:
        """Wait until so many chunks were begun."""
        self.wait(f"chunk {count}", lambda: len(self.seen("chunk_started")) >= count)

    def checkpoints(self, stage: str, count: int = 1) -> list[Path]:
        """Wait until a stage has so many checkpoints; oldest first."""
        found: list[Path] = []

        def there() -> bool:
            found[:] = sorted(
                self.directory.glob(f"runs/*/results/*/{stage}/checkpoints/{stage}_step_*"),
                key=lambda each: int(each.name.rpartition("_")[2]),
            )
            return len(found) >= count

        self.wait(f"{count} checkpoints of {stage}", there)
        return found

    def training(self) -> list[psutil.Process]:
        """Wait until ranks train; they."""
        self.wait("ranks", lambda: len(self.ranks()) >= 2)
        return self.ranks()

    # --- breaking -----------------------------------------------------------------------------------------

    def kill(self, name: str) -> float:
        """Kill a process of the stack with SIGKILL; seconds until its successor was there."""
        self.wait(f"{name} to be there", lambda: name in self.processes())
        before = self.processes()[name]
        before.send_signal(signal.SIGKILL)
        return self.comes_back(name, before)

    def comes_back(self, name: str, before: psutil.Process) -> float:
        """Wait for a process's successor; the seconds that took."""
        since = time.monotonic()
        self.wait(f"{name} to come back", lambda: self.processes().get(name, before).pid != before.pid)
        return time.monotonic() - since

    def kill_rank(self, index: int) -> float:
        """Kill a rank; seconds until its chunk was launched again."""
        rank, launches = self.training()[index], len(self.seen("chunk_started"))
        rank.send_signal(signal.SIGKILL)
        since = time.monotonic()
        self.wait("another launch", lambda: len(self.seen("chunk_started")) > launches)
        return time.monotonic() - since

    @contextlib.contextmanager
    def stopped(self, processes: Sequence[psutil.Process], seconds: float = LONG_SEC) -> Iterator[None]:
        """Processes stopped for a time, whatever happens."""
        for each in processes:
            each.send_signal(signal.SIGSTOP)
        try:
            yield
            time.sleep(seconds)
        finally:
            for each in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGCONT)

    def second(self, name: str) -> subprocess.Popen[bytes]:
        """A second process of a service, started as its supervisor starts it."""
        first = self.processes()[name]
        with (self.directory / f"second-{name}.log").open("wb") as output:
            return subprocess.Popen(
                first.cmdline(), env=first.environ(), cwd=first.cwd(), stdout=output, stderr=output
            )

    # --- the promises -------------------------------------------------------------------------------------

    def ends(self, run: subprocess.Popen[str], code: int = 0, timeout: float = 700) -> None:
        """Wait for the run's end."""
        assert run.wait(timeout=timeout) == code, self.logs()

    def promises(self, *, relaunches: int) -> None:
        """What holds after every run that comes to a good end.

        Args:
            relaunches: Launches beyond one a chunk that the faults explain, at most.
        """
        from shared.bundle import Bundle
        from shared.worldmodel.checkpoints import inspect_checkpoint

        events = self.events()
        twice = [each for each, count in Counter(event["id"] for event in events).items() if count > 1]
        assert not twice, f"told twice: {twice}"
        gates = self.named("gate_decided")
        assert len({(gate["stage"], gate["attempt"]) for gate in gates}) == len(gates), "a gate decided twice"
        wanted = "passed" if any(gate["stage"] == "inference" for gate in gates) else "stage_completed"
        assert [each["status"] for each in self.named("run_finished")] == [wanted], self.logs()
        done = {(each["stage"], each["attempt"]): each for each in self.named("chunk_done")}
        extra = sum(each["launch"] - 1 for each in done.values())
        assert extra <= relaunches, f"{extra} relaunches\n{self.logs()}"
        bundle = Bundle(self.bundle(), events[0]["data"].get("run_name", ""))
        for each in self.named("chunk_started"):
            path = each["plan"]["resume_from"]
            if path is not None and (bundle.root / path).is_dir():
                assert inspect_checkpoint(bundle.root / path, bundle=bundle).valid, f"{path} was gone on from"
        written = {each["report"]: each for each in self.named("report_written")}
        assert set(written) == KINDS
        for each in written.values():
            assert each["ok"], each
            assert (bundle.root / each["path"]).stat().st_size > 0
        self.run("replay", str(bundle.root))  # every decision, taken again, is the same

    def same_as(self, other: Deployment) -> None:
        """The same gates, and bit for bit the same weights, optimizer and history."""
        key = ("stage", "gate_step", "decision", "retries_used")
        mine, theirs = (
            [[gate[each] for each in key] for gate in world.named("gate_decided")] for world in (self, other)
        )
        assert mine == theirs[: len(mine)], f"{mine} instead of {theirs}"
        for stage in dict.fromkeys(each["stage"] for each in self.named("chunk_done")):
            assert self.weights(stage) == other.weights(stage), f"{stage} has other weights"
            assert self.history(stage) == other.history(stage), f"{stage} has another history"

    def weights(self, stage: str) -> dict[str, bytes]:
        """The last checkpoint's tensors of model and optimizer."""
        import torch

        (directory,) = self.bundle().glob(f"results/*/{stage}/checkpoints/{stage}_step_{self.target - 1}")
        found: dict[str, bytes] = {}
        for name in ("model_state_dict.pt", "optim_state_dict.pt"):
            flat(torch.load(directory / name, weights_only=True), name, found)
        return found

    def history(self, stage: str) -> list[list[str]]:
        """All rows without the one column that is about time."""
        rows = []
        for path in sorted(self.bundle().glob(f"Logs/history/{stage}/attempt_*.csv")):
            header, *lines = [line.split(",") for line in path.read_text().splitlines()]
            at = header.index("_runtime")
            rows += [line[:at] + line[at + 1 :] for line in lines]
        return rows


class Disk:
    """A small disk of its own over a directory.

    Raises:
        OSError: This process may not mount.
    """

    def __init__(self, place: Path, kilobytes: int) -> None:
        self.place = place
        place.mkdir(parents=True, exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "chaos")

    def fill(self) -> None:
        """Leave no room."""
        with (self.place / ".filler").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
            while True:
                stream.write(b"0" * 256)

    def remount(self, option: str) -> None:
        """Make it larger (`size=64m`), or read-only (`ro`)."""
        self._mount("-o", f"remount,{option}")

    def away(self) -> None:
        """Take it away, whoever still uses it."""
        subprocess.run(["umount", "-l", self.place], check=False, capture_output=True)

    def _mount(self, *arguments: str) -> None:
        done = subprocess.run(["mount", *arguments, self.place], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(done.stderr.strip())
