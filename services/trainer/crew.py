"""The one process group, from launch to end, and the guard around it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import structlog

from services.trainer import gpu_memory
from services.trainer.checkout.group import CheckoutGroup, Dialects
from services.trainer.checkout.takeover import leftovers
from services.trainer.chunk import Chunk
from services.trainer.config import Policy
from services.trainer.core.groups import requirements
from services.trainer.core.launch import device
from services.trainer.group import Group
from services.trainer.guard import Guard
from services.trainer.outputs import output_file
from services.trainer.wire import Run
from shared.bus.protocol import Bus
from shared.events import NO_RUN
from shared.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


AnyGroup = Group | CheckoutGroup
"""Who trains: our own ranks, or a checkout's script."""


class Crew:
    """Makes sure that at most one training process group of this stack is alive.

    Args:
        bus: Where `launcher_killed` goes.
        settings: Of this service.
    """

    def __init__(self, bus: Bus, settings: Settings) -> None:
        self._bus, self._settings = bus, settings
        self._guard = Guard(settings.state_dir)
        self._changing = asyncio.Lock()
        """Held while a group is launched or ended, and while others are looked for."""
        self._ended: set[int] = set()
        """Pids ended since the last launch."""
        self._dialects = Dialects()
        self.group: AnyGroup | None = None
        """The one that lives, if any."""

    async def ready_for(self, chunk: Chunk, run: Run) -> tuple[AnyGroup, bool]:
        """A group that can take the plan, and whether it is a warm one; no other launcher is alive then.

        Raises:
            ConfigurationError: The checkout cannot train this.
            OSError: The launcher could not be started.
        """
        async with self._changing:  # one that is being ended takes no plan any more
            warm = self.group
        if warm is not None and warm.alive and warm.requirements == requirements(run.run_id, run.plan):
            await self.sweep(chunk, "alive beside the current training launcher")
            return warm, True
        await self.end()
        await self.sweep(chunk, "alive before a new training launcher")
        log_file = output_file(chunk.bundle, run.plan, run.launch, self._settings.node_rank)
        log_file.parent.mkdir(parents=True, exist_ok=True)
        async with self._changing:
            if device(chunk.config) == "cuda":
                await gpu_memory.freed(self._ended)
            self._ended.clear()
            self.group = await self._launch(chunk, run, log_file)
        return self.group, False

    async def _launch(self, chunk: Chunk, run: Run, log_file: Path) -> AnyGroup:
        checkout, policy, settings = chunk.spec.checkout, chunk.policy, self._settings
        if checkout is None:
            return await Group.launch(run, policy, settings, log_file)
        return await CheckoutGroup.launch(
            run, checkout, chunk.bundle, policy, settings, log_file, self._dialects
        )

    async def reclaim(self, chunk: Chunk) -> None:
        """Take over what launches of a checkout wrote whose trainer was killed; they are ended first."""
        left = list(leftovers(chunk.bundle))
        if left:
            await self.sweep(chunk, "left by a trainer that died")
        for each in left:
            await asyncio.to_thread(each.finish, died=True)

    async def end(self, exit_grace_sec: float | None = None) -> int | None:
        """End the group if there is one.

        Args:
            exit_grace_sec: As `Group.end` takes it.

        Returns:
            Its exit code.
        """
        async with self._changing:
            group = self.group
            if group is None:
                return None
            self._ended |= await group.end(exit_grace_sec)  # cut short, it is still there to be ended
            self.group = None
            return group.exit_code

    async def end_if_idle(self) -> None:
        """End a group that has had no plan for too long; not to be called while it has one."""
        group = self.group
        if group is not None and time.monotonic() - group.idle_since > group.policy.warm_idle_sec:
            log.info("no plan for a while, ending the process group", idle_sec=group.policy.warm_idle_sec)
            await self.end()

    @contextlib.asynccontextmanager
    async def guarded(self, chunk: Chunk) -> AsyncIterator[None]:
        """Look for other launchers regularly while the block runs."""

        async def keep_sweeping() -> None:
            while True:
                await asyncio.sleep(chunk.policy.guard_interval_sec)
                await self.sweep(chunk, "alive beside the current training launcher")

        task = asyncio.create_task(keep_sweeping())
        try:
            yield
        finally:
            task.cancel()

    async def sweep(self, chunk: Chunk | None, why: str) -> None:
        """End every other training launcher of this stack, each with its event."""
        policy = chunk.policy if chunk is not None else Policy()
        checkout = chunk.spec.checkout if chunk is not None else None
        async with self._changing:
            swept = await self._guard.sweep(
                chunk.run_id if chunk is not None else NO_RUN,
                current=self.group.pid if self.group is not None else None,
                checkout=Path(checkout.directory) if checkout is not None else None,
                why=why,
                end=policy.cleanup_extra_processes,
                grace_sec=policy.kill_grace_sec,
            )
            self._ended |= swept.pids
        for event in swept.events:
            log.warning("ended a training launcher", pid=event.pid, why=event.why)
            await self._bus.publish(event)
