"""The one process group, from launch to end, and the guard around it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import structlog

from services.trainer.chunk import Chunk
from services.trainer.config import Policy
from services.trainer.core.groups import requirements
from services.trainer.group import Group
from services.trainer.guard import Guard
from services.trainer.wire import Run
from shared.bus.protocol import Bus
from shared.events import NO_RUN
from shared.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


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
        self.group: Group | None = None
        """The one that lives, if any."""

    async def ready_for(self, chunk: Chunk, run: Run) -> tuple[Group, bool]:
        """A group that can take the plan, and whether it is a warm one; no other launcher is alive then.

        Raises:
            OSError: The launcher could not be started.
        """
        warm = self.group
        if warm is not None and warm.alive and warm.requirements == requirements(run.run_id, run.plan):
            await self.sweep(chunk, "alive beside the current training launcher")
            return warm, True
        await self.end()
        await self.sweep(chunk, "alive before a new training launcher")
        name = f"{run.plan.stage}_attempt_{run.plan.attempt:04d}_launch_{run.launch}.log"
        log_file = chunk.bundle.logs / "training" / name
        async with self._changing:
            self.group = await Group.launch(run, chunk.policy, self._settings, log_file)
        return self.group, False

    async def end(self, exit_grace_sec: float | None = None) -> int | None:
        """End the group if there is one.

        Args:
            exit_grace_sec: As `Group.end` takes it.

        Returns:
            Its exit code.
        """
        async with self._changing:
            group, self.group = self.group, None
            if group is None:
                return None
            await group.end(exit_grace_sec)
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
        async with self._changing:
            killed = await self._guard.sweep(
                chunk.run_id if chunk is not None else NO_RUN,
                current=self.group.pid if self.group is not None else None,
                why=why,
                end=policy.cleanup_extra_processes,
                grace_sec=policy.kill_grace_sec,
            )
        for event in killed:
            log.warning("ended a training launcher", pid=event.pid, why=event.why)
            await self._bus.publish(event)
