"""The other hosts of a launch, as node 0's trainer sees them: called to join, heard from, judged by."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from services.trainer.core.ends import Death, tail
from services.trainer.core.nodes import together
from shared.bus.protocol import Bus
from shared.config import StageConfig
from shared.events import ChunkPlan, JoinChunk, NodeEvent, NodeJoined, NodeLost, RunId

WORD_SEC = 4.0
"""How long to wait for what the other hosts saw of a launch's end: recovery begins within 5 s of a death."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Party:
    """The other hosts of the newest launch; with a plan for one host there are none.

    Args:
        bus: Where they are called.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._launch: tuple[str, str, int, int] | None = None
        self._calls: dict[int, JoinChunk] = {}
        self._joined: set[int] = set()
        self._lost: dict[int, NodeLost] = {}
        self._changed = asyncio.Event()

    @property
    def complete(self) -> bool:
        """Whether all have joined."""
        return self._calls.keys() <= self._joined

    def begin(self, run_id: RunId, plan: ChunkPlan, launch: int) -> None:
        """A launch begins: what was said of those before it is forgotten, and not heard any more."""
        self._launch = (run_id, plan.stage, plan.attempt, launch)
        self._calls = {
            rank: JoinChunk(run_id=run_id, plan=plan, launch=launch, node_rank=rank)
            for rank in range(1, StageConfig.recorded(plan.parameters).nnodes)
        }
        self._joined, self._lost = set(), {}

    async def call(self) -> None:
        """Ask every other host to start its part of the launch."""
        for join in self._calls.values():
            await self._bus.publish(join)

    def heard(self, event: NodeEvent) -> bool:
        """Note what a host says; whether it is of the newest launch."""
        if (event.run_id, event.stage, event.attempt, event.launch) != self._launch:
            return False
        if isinstance(event, NodeJoined):
            self._joined.add(event.node_rank)
        elif isinstance(event, NodeLost):
            self._lost[event.node_rank] = event
        self.look_again()
        return True

    def look_again(self) -> None:
        """Have whoever waits look whether there is still something to wait for."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def gathered(self, given_up: Callable[[], bool]) -> bool:
        """Wait, without limit, until all have joined: a silent host is an alert (the monitor's), no failure.

        Args:
            given_up: Whether there is nothing to wait for any more; see `look_again`.

        Returns:
            False when given up, or when one of them is lost already.
        """
        if not self.complete:
            log.info("waiting for other hosts", nodes=sorted(self._calls.keys() - self._joined))
        await self._until(lambda: self.complete or bool(self._lost) or given_up())
        return self.complete and not self._lost

    async def verdict(self, own: Death, stderr: str) -> tuple[Death, str]:
        """Why the launch is gone, and the last words of the host that knows.

        Args:
            own: What it looks like on node 0.
            stderr: Its last words there.
        """
        if own == "peer":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WORD_SEC):
                    await self._until(self._explained)
        death = together([own, *(each.death for each in self._lost.values())])
        teller = next((each for each in self._lost.values() if each.death == death), None)
        if teller is None or own == death:
            return death, stderr
        return death, f"On node {teller.node_rank} ({teller.host}):\n{tail(teller.stderr_tail)}"

    def _explained(self) -> bool:
        """Whether a host knows a reason of its own, or all have spoken."""
        knows = any(each.death != "peer" for each in self._lost.values())
        return knows or self._lost.keys() == self._calls.keys()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()
