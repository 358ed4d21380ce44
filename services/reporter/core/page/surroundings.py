"""The machine around the run: services by their heartbeats and backlogs, GPUs by their samples."""

from __future__ import annotations

from collections.abc import Sequence

from services.reporter.core.page.model import GpuRow, ServiceRow
from services.reporter.core.page.table import Table
from shared.bus.protocol import Backlog
from shared.events import NO_RUN, SERVICES, GpuEvidence, GpuSample, Heartbeat, Service

RECENT = 120
"""Samples of a GPU that are kept."""
FORGOTTEN_SEC = 10.0
"""A service that does not repeat that it works on something has ended that work."""


class Services:
    """The five services; those that were never heard of are listed too."""

    def __init__(self, run_id: str) -> None:
        self.table: Table[ServiceRow] = Table()
        self._run_id = run_id
        self._work: dict[Service, dict[str, tuple[float, list[str]]]] = {each: {} for each in SERVICES}
        for service in SERVICES:
            self.table.put(
                ServiceRow(
                    id=service,
                    service=service,
                    pid=None,
                    host=None,
                    heard=None,
                    working_on=[],
                    waiting=None,
                    unsettled=None,
                    dead=None,
                )
            )

    def beat(self, beat: Heartbeat, time: float) -> None:
        """A sign of life; a service that works on several runs gives one for each."""
        work = self._work[beat.service]
        if beat.run_id == NO_RUN and not beat.working_on:
            work.clear()
        work[beat.run_id] = (time, beat.working_on)
        for run_id in [run_id for run_id, (heard, _) in work.items() if heard < time - FORGOTTEN_SEC]:
            del work[run_id]
        working = [key for _, keys in work.values() for key in keys]
        self.table.update(beat.service, pid=beat.pid, host=beat.host, heard=time, working_on=working)

    def backlog(self, backlogs: Sequence[Backlog] | None) -> None:
        """What the bus says of their consumers; none if it says nothing."""
        found = {each.service: each for each in backlogs or []}
        for service in SERVICES:
            each = found.get(service, Backlog(service))
            known = {
                "waiting": each.waiting,
                "unsettled": each.unsettled,
                "dead": each.dead.get(self._run_id, 0),
            }
            self.table.update(service, **(known if backlogs is not None else dict.fromkeys(known)))


class Gpus:
    """GPUs as they are sampled, and the ranks of a run on CPUs at its gates."""

    def __init__(self) -> None:
        self.table: Table[GpuRow] = Table()

    def sample(self, sample: GpuSample, time: float) -> None:
        """A reading."""
        row_id = f"gpu{sample.index}"
        before = self.table.get(row_id)
        newest = (round(time, 1), sample.utilization)  # all of them are in every patch: keep them short
        recent = [*(before.recent if before is not None else []), newest][-RECENT:]
        self.table.put(
            GpuRow(
                id=row_id,
                name=f"GPU {sample.index}",
                utilization=sample.utilization,
                memory=sample.memory_bytes,
                memory_total=sample.memory_total_bytes,
                recent=recent,
                problem=sample.problem,
            )
        )

    def evidence(self, event: GpuEvidence, seconds: float | None, time: float) -> None:
        """What a chunk's CPU ranks did; of GPUs the samples say more.

        Args:
            event: The evidence.
            seconds: Wall time of the chunk.
            time: Unix time of the evidence.
        """
        for rank, used in enumerate(event.cpu_seconds if event.evidence == "cpu_ranks" else []):
            row_id = f"rank{rank}"
            before = self.table.get(row_id)
            percent = 100 * used / seconds if seconds else None
            recent = [*(before.recent if before is not None else []), (time, percent)][-RECENT:]
            self.table.put(
                GpuRow(
                    id=row_id,
                    name=f"CPU rank {rank}",
                    utilization=percent,
                    memory=None,
                    memory_total=None,
                    recent=recent,
                    problem=event.problem,
                )
            )
