"""The trainer on another host than node 0: runs its part of each launch, and tells node 0 of its end.

It takes no plans of its own and decides nothing: node 0's trainer calls it to each launch (`join`), and what
that reports of the chunk says when the part is over. Its agent dies with it, and with node 0's.
"""

from __future__ import annotations

import asyncio
import math
import socket

import structlog

from services.trainer import host_memory
from services.trainer.chunk import Chunk
from services.trainer.config import Policy
from services.trainer.core import ends
from services.trainer.crew import AnyGroup, Crew
from services.trainer.group import Gone
from services.trainer.wire import Finished, Progress, Run, Saved
from shared.bus.protocol import Bus
from shared.errors import ConfigurationError
from shared.events import (
    ChunkDone,
    ChunkStarted,
    JoinChunk,
    Message,
    NodeEvent,
    NodeJoined,
    NodeLost,
    RunFinished,
    RunId,
    RunPaused,
)
from shared.service import Jobs, Runs
from shared.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Node:
    """This host's part of whatever launch is the newest.

    Args:
        bus: Where `launcher_killed` goes, and where the log says which launches are over.
        settings: Of this service.
        jobs: Where its group is watched.
    """

    def __init__(self, bus: Bus, settings: Settings, jobs: Jobs) -> None:
        self._bus, self._settings, self._jobs = bus, settings, jobs
        self._runs, self._crew = Runs(bus, settings), Crew(bus, settings)
        self._joined: JoinChunk | None = None

    async def join(self, call: JoinChunk) -> NodeEvent | None:
        """Start this host's part of a launch in place of any other; once, however often it is called.

        Returns:
            That it was started, or why not; none if the launch is over: nobody would come to meet this part.

        Raises:
            Retry: The run is not in the log yet.
        """
        chunk = await self._open(call)
        if self._joined == call and self._crew.group is not None:
            return NodeJoined(**_about(call, self._crew.group.pid))
        at_work = await self._at_work(call.run_id)
        if at_work is None or not _is_of(at_work, call):
            return None
        self._joined = None
        await self._crew.end(exit_grace_sec=0.0)
        if not chunk.bundle.root.is_dir():
            problem = f"no run's bundle at {chunk.bundle.root}: mount it, or set WORLDLOOP_OUTPUT_ROOT"
            return _lost(call, 0, None, "failed", problem)
        oom_kills = host_memory.oom_kills()
        try:
            group, _ = await self._crew.ready_for(chunk, _run(call, chunk))
        except (ConfigurationError, OSError) as error:
            return _lost(call, 0, None, "peer", str(error))
        self._joined = call
        self._jobs.start(f"{call.id}/{group.pid}", self._accompany(call, chunk, group, oom_kills))
        return NodeJoined(**_about(call, group.pid))

    async def leave(self, run_id: RunId) -> None:
        """End this host's part if it is of this run, and node 0's is over.

        What is heard late may be of a launch before.
        """
        ours = self._joined is not None and self._joined.run_id == run_id
        if ours and await self._at_work(run_id) is None:
            self._joined = None
            await self._crew.end()

    async def watch(self) -> None:
        """End what a trainer before this one left, and all of it when this service ends."""
        try:
            await self._crew.sweep(None, "left by a trainer that died")
            await asyncio.Event().wait()
        finally:
            self._joined = None
            await self._crew.end(exit_grace_sec=0.0)

    async def _at_work(self, run_id: RunId) -> ChunkStarted | None:
        """The newest launch of a run, as far as the log does not say that it is over."""
        started = await self._bus.last_event(run_id, ChunkStarted.name)
        if started is None or not isinstance(started.message, ChunkStarted):
            return None
        for end in (ChunkDone, RunPaused, RunFinished):
            last = await self._bus.last_event(run_id, end.name)
            if last is not None and last.sequence > started.sequence:
                return None
        return started.message

    async def _open(self, call: JoinChunk) -> Chunk:
        spec, bundle = await self._runs.spec(call.run_id), await self._runs.place(call.run_id)
        policy = Policy.recorded(spec.policy.get("trainer", {}))
        return Chunk(call.run_id, call.plan, spec, bundle, policy, launches=call.launch)

    async def _accompany(
        self, call: JoinChunk, chunk: Chunk, group: AnyGroup, oom_kills: int | None
    ) -> list[Message]:
        """Guard the host while the part lives; tell when it ends before it was told to."""
        async with self._crew.guarded(chunk):
            end = await group.finish(_unheard, hang_timeout_sec=math.inf)
        if isinstance(end, Finished) or self._joined != call:
            return []  # ended by this trainer
        self._joined = None
        oom_killed = host_memory.rose(oom_kills)
        await self._crew.end(exit_grace_sec=0.0)
        if end.exit_code == 0:
            return []  # the launch is over: its ranks left
        death = chunk.death(end.exit_code, end.stderr, oom_killed=oom_killed)
        log.warning("this host's part is gone", exit_code=end.exit_code, death=death)
        stderr = ends.last_words(end.stderr, oom_killed=oom_killed and death == "oom")
        return [_lost(call, group.pid, end, death, stderr)]


def _run(call: JoinChunk, chunk: Chunk) -> Run:
    """What the group is made for. Where to go on from, rank 0 tells its ranks."""
    return Run(
        run_id=call.run_id,
        run_name=chunk.bundle.run_name,
        bundle=str(chunk.bundle.root.absolute()),
        plan=call.plan,
        launch=call.launch,
        resume_from=None,
        resume_step=call.plan.start_step,
    )


def _is_of(started: ChunkStarted, call: JoinChunk) -> bool:
    launch = started.stage, started.attempt, started.launch
    return launch == (call.plan.stage, call.plan.attempt, call.launch)


def _about(call: JoinChunk, pid: int) -> dict[str, object]:
    return {
        "run_id": call.run_id,
        "stage": call.plan.stage,
        "attempt": call.plan.attempt,
        "launch": call.launch,
        "node_rank": call.node_rank,
        "host": socket.gethostname(),
        "launcher_pid": pid,
    }


def _lost(call: JoinChunk, pid: int, end: Gone | None, death: ends.Death, stderr: str) -> NodeLost:
    exit_code = end.exit_code if end is not None else None
    return NodeLost.model_validate(
        {**_about(call, pid), "exit_code": exit_code, "death": death, "stderr_tail": ends.tail(stderr)}
    )


async def _unheard(_: Progress | Saved) -> None:
    """Rank 0 alone reports, and it is on node 0."""
