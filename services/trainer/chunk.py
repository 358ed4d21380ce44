"""A plan in work, and how it ended."""

from __future__ import annotations

import asyncio
import shutil
import time
from dataclasses import dataclass, field

from services.trainer.config import Policy
from services.trainer.core import ends
from services.trainer.core.checkout import launch
from services.trainer.core.launch import world_size
from services.trainer.core.ledger import Key
from services.trainer.wire import Finished
from shared.bundle import Bundle
from shared.config import StageConfig
from shared.events import ChunkEnd, ChunkPlan, RunId, RunSpec

MEGABYTE = 1 << 20


@dataclass(slots=True)
class Chunk:
    """A plan in work."""

    run_id: RunId
    plan: ChunkPlan
    spec: RunSpec
    bundle: Bundle
    policy: Policy
    launches: int = 0
    """Launches of the attempt so far, those before a restart of the trainer included."""
    since: float = field(default_factory=time.time)
    """Unix time of the first."""
    launcher_pid: int = 0
    recount: bool = False
    """The newest launch was ended because a checkout's script counts otherwise than thought."""
    stop_asked: bool = False
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Its command may be acked: `chunk_started`, or `chunk_done` without a launch, is durable."""

    @property
    def key(self) -> Key:
        """What names it."""
        return self.run_id, self.plan.stage, self.plan.attempt

    @property
    def config(self) -> StageConfig:
        """Its stage's configuration."""
        return StageConfig.recorded(self.plan.parameters)

    def gone(self, *, begun: bool) -> str | None:
        """Why it cannot begin where its files should be; none if it can.

        Nothing is made in the place of a bundle that was moved, or whose disk is not mounted.

        Args:
            begun: A chunk of its run was begun before, so that there must be a bundle.
        """
        root, plan = self.bundle.root, self.plan
        named = [path for path in (plan.resume_from, *plan.upstream.values()) if path is not None]
        problem = self.bundle.gone() if begun or named else None
        if problem is None and named and not any((root / path).is_dir() for path in named):
            problem = f"{root} has no {' and no '.join(named)} to go on from: bring back what was taken away"
        return problem and f"{problem}. Then go on with: worldloop train --resume {self.run_id}"

    def disk_problem(self) -> str | None:
        """Why it cannot be launched where there is too little room; none if there is enough."""
        free, wanted = shutil.disk_usage(self.bundle.root).free // MEGABYTE, self.policy.min_free_disk_mb
        if free >= wanted:
            return None
        return (
            f"only {free} MB are free under {self.bundle.root}, and a chunk starts with at least {wanted}: "
            "make room, or lower trainer.min_free_disk_mb in policy.yaml"
        )

    def death(self, exit_code: int | None, stderr: str, *, oom_killed: bool) -> ends.Death:
        """Why a launch of it is gone; see `ends.death`."""
        return ends.death(exit_code, stderr, oom_killed=oom_killed, several_hosts=self.config.nnodes > 1)

    @property
    def ranks(self) -> int:
        """Processes that train it."""
        ranks = launch.ranks if self.spec.checkout is not None else world_size
        return ranks(self.config)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a chunk ended."""

    reason: ChunkEnd
    end_step: int
    exit_code: int | None = None
    stderr: str = ""
    finished: Finished | None = None
    """The training process's own report, when it lived to write one."""
