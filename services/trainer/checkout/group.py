"""A checkout's process group: one launch of a stage's own script, watched from outside.

How it ended shows in its exit code and its last words. It cannot be asked to stop: a stop ends it, and its
newest checkpoint is what remains.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import psutil
import structlog

from services.trainer import processes
from services.trainer.checkout.signs import Signs
from services.trainer.checkout.start import Started, start
from services.trainer.config import Policy
from services.trainer.core.checkout.dialect import Dialect
from services.trainer.core.checkout.launch import ranks, warnings
from services.trainer.group import Gone
from services.trainer.launcher import Launcher
from services.trainer.wire import Finished, Progress, Run, Saved
from shared.bundle import Bundle
from shared.checkout import script
from shared.config import StageConfig
from shared.events import CheckoutSpec, Document
from shared.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

LOOK_SEC = 0.5
"""Between two looks."""
OWN_LAUNCH: Document = {"checkout": "every plan has a launch of its own"}


class Dialects(dict[str, Dialect]):
    """Path of a script -> how it counts, as its launches have shown."""


class CheckoutGroup(Launcher):
    """One launch. Make it with `launch`; after `finish` it is used up.

    Args:
        run: What it was launched for.
        policy: The run's.
        started: The launcher.
        dialects: Where what it shows of its script goes.
        name: The script's, in there.
    """

    def __init__(self, run: Run, policy: Policy, started: Started, dialects: Dialects, name: str) -> None:
        super().__init__(run, policy, started.launched)
        self.requirements = OWN_LAUNCH
        self.world_size = ranks(StageConfig.recorded(run.plan.parameters))
        self._run, self._started, self._dialects, self._name = run, started, dialects, name
        self._signs = Signs(run, started.counts, started.takeover, started.launched.log_file)
        self._stopping = False
        self._members: set[psutil.Process] = set()
        self._cpu: dict[int, float] = {}

    @classmethod
    async def launch(
        cls,
        run: Run,
        checkout: CheckoutSpec,
        bundle: Bundle,
        policy: Policy,
        settings: Settings,
        log_file: Path,
        dialects: Dialects,
    ) -> CheckoutGroup:
        """Start a stage's script for a plan; returns as soon as the launcher has a pid.

        Args:
            run: The plan and where it goes on.
            checkout: The repository.
            bundle: The run's.
            policy: The run's.
            settings: Of this service.
            log_file: Where launcher and ranks write.
            dialects: What is known of scripts; learns.

        Raises:
            ConfigurationError: The checkout cannot train this; names file or key, and the cure.
            OSError: The disk refused.
        """
        name = f"{checkout.directory}/{script(run.plan.stage)}"
        started = await start(run, checkout, bundle, settings, log_file, dialects.get(name))
        return cls(run, policy, started, dialects, name)

    def hand(self, run: Run) -> None:
        """It was launched for this plan and takes no other."""
        assert run == self._run

    def stop(self) -> None:
        """Have it ended: what it saved last is what remains."""
        self._stopping = True

    async def finish(
        self, heard: Callable[[Progress | Saved], Awaitable[None]], *, hang_timeout_sec: float
    ) -> Finished | Gone:
        """Wait until the launch is over, and take over what it wrote.

        Args:
            heard: Told where it is.
            hang_timeout_sec: How long its step may stand still.
        """
        signs, takeover, advanced = self._signs, self._started.takeover, time.monotonic()
        while True:
            await asyncio.wait({self._exit}, timeout=min(LOOK_SEC, hang_timeout_sec))
            self._look_at_processes()
            over = not self.alive
            if await signs.look(over=over):
                advanced = time.monotonic()
                await heard(signs.progress())
            misjudged = self._learn(over=over)
            hung = not over and time.monotonic() - advanced > hang_timeout_sec
            diverged = takeover.logged.diverged  # once it is in the history, not just printed
            if over or misjudged or hung or diverged or self._stopping:
                break
        code = self.exit_code
        await self.end()
        try:
            wandb_run_id, wandb_dir = await asyncio.to_thread(takeover.finish, died=code != 0)
        except OSError as error:
            text = f"{self.stderr()}\nWhat the launch wrote cannot be taken over: {error}"
            return Gone(hung=False, exit_code=code or 1, stderr=text)
        if misjudged:
            return Gone(hung=False, exit_code=code, stderr="", misjudged=True)
        signs.count()
        if code != 0 and not signs.diverged:
            return Gone(hung=hung, exit_code=code, stderr=self.stderr())
        whole = self._run.resume_step == 0 and self._run.plan.ends_stage
        return Finished(
            reason="non_finite" if signs.diverged else "completed",
            end_step=self._run.resume_step + signs.updates,
            cpu_seconds=[self._cpu[rank] for rank in sorted(self._cpu)],
            timing={},
            wandb_run_id=wandb_run_id,
            wandb_dir=wandb_dir,
            problems=[*takeover.logged.problems, *warnings(self._started.dialect, whole_stage=whole)],
        )

    async def end(self, exit_grace_sec: float | None = None) -> set[int]:  # noqa: ARG002 - nobody to ask
        """End all its processes and wait until they are gone.

        Args:
            exit_grace_sec: Not used: a script does not take an order to leave.

        Returns:
            Their pids.
        """
        members = self._with_all(self._members)
        await self._end(members)
        return {self.pid, *(each.pid for each in self._members), *(each.pid for each in members)}

    def _look_at_processes(self) -> None:
        if self.alive:
            # a process whose parent has ended is no descendant any more, but it is still ours to end
            seen = self._members.union(self._with_all([]))
            self._members = {each for each in seen if processes.lives(each)}
            self._cpu |= _cpu_seconds(self.pid, self._members)

    def _learn(self, *, over: bool) -> bool:
        """Note how the script counts once that shows; true if it was launched on a wrong belief."""
        start_step, thought = self._run.resume_step, self._started.dialect
        shown = self._started.takeover.shown
        if shown is None and start_step and over and self.exit_code == 0 and self._signs.updates == 0:
            shown = self._dialects.get(self._name, "absolute")  # there was nothing left to count to
        if shown is None:
            return False
        self._dialects[self._name] = shown
        if shown != thought:
            log.warning("the script counts otherwise than thought", script=self._name, counts=shown)
        return shown != thought


def _cpu_seconds(launcher: int, members: Iterable[psutil.Process]) -> dict[int, float]:
    """Rank -> its CPU seconds: of the launcher itself, or of what torchrun started with a rank's number."""
    own: dict[int, float] = {}
    ranked: dict[int, float] = {}
    for process in members:
        try:
            seconds = process.cpu_times().user + process.cpu_times().system
            if process.pid == launcher:
                own[0] = seconds
            elif process.ppid() == launcher and (rank := process.environ().get("RANK")) is not None:
                ranked[int(rank)] = max(seconds, ranked.get(int(rank), 0.0))
        except psutil.Error:  # it ended meanwhile; what was read last stays
            continue
    return ranked or own
