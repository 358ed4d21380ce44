"""The trainer at work: takes plans, has the process group train them, reports how they ended."""

from __future__ import annotations

import asyncio

import structlog
from pydantic import ValidationError

from services.trainer import host_memory, messages
from services.trainer.chunk import Chunk, Outcome
from services.trainer.config import Policy
from services.trainer.core import ends
from services.trainer.core.ledger import Begun, Key, Ledger
from services.trainer.core.lineage import disposable, named, resume_point
from services.trainer.crew import AnyGroup, Crew
from services.trainer.group import Gone, Group
from services.trainer.inventory import Inventory, supersede
from services.trainer.party import Party
from services.trainer.wire import Finished, Progress, Run, Saved
from shared.bus.protocol import Bus
from shared.config import StageConfig
from shared.errors import ConfigurationError, Reject, Retry
from shared.events import CheckpointInfo, ChunkEnd, ChunkPlan, Message, NodeEvent, NodeLost, RunId
from shared.service import Jobs, Runs
from shared.settings import Settings

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

WATCH_SEC = 1.0
ABSENT_SEC = 2.0
"""Pause before a launch that follows one for which not all hosts came."""


class Trainer:
    """Works on one chunk at a time.

    Args:
        bus: Where its events go as they happen.
        settings: Of this service.
        ledger: What the log says about chunks.
        jobs: Where chunks run.
    """

    def __init__(self, bus: Bus, settings: Settings, ledger: Ledger, jobs: Jobs) -> None:
        self._bus, self._ledger, self._jobs = bus, ledger, jobs
        self._runs, self._data_dir = Runs(bus, settings), settings.data_dir
        self._inventory, self._crew, self._party = Inventory(), Crew(bus, settings), Party(bus)
        self._taking = asyncio.Lock()
        self._chunk: Chunk | None = None
        self._named: dict[str, set[str]] = {}
        """Run -> checkpoints that its events named, which retention keeps."""
        self._read: dict[str, int] = {}
        """Run -> sequence up to which that was read."""
        self._closing = False

    # --- what handlers ask for ----------------------------------------------------------------------------

    async def take(self, run_id: RunId, plan: ChunkPlan, job: str) -> None:
        """Begin a plan, or go on with it; returns when its `chunk_started` is durable.

        Args:
            run_id: Its run.
            plan: The plan.
            job: Id of the command, under which the work shows in heartbeats.

        Raises:
            Retry: Another chunk is in work, or the run is not in the log yet.
            Reject: The plan or the run's policy cannot be used.
        """
        key = (run_id, plan.stage, plan.attempt)
        if self._ledger.answered(key):
            return
        async with self._taking:
            if self._chunk is None:
                self._chunk = await self._open(run_id, plan)
                self._jobs.start(job, self._work(self._chunk))
            chunk = self._chunk
        if chunk.key != key:
            raise Retry(f"the trainer still works on {'/'.join(map(str, chunk.key))}", delay_sec=2.0)
        await chunk.settled.wait()

    def stop(self, key: Key) -> None:
        """End a chunk after its current update; one that has not come yet ends as soon as it comes."""
        if key in self._ledger.done:
            return
        self._ledger.stops.add(key)
        if self._chunk is not None and self._chunk.key == key:
            self._chunk.stop_asked = True
            if self._crew.group is not None:
                self._crew.group.stop()
            self._party.look_again()

    async def node(self, event: NodeEvent) -> None:
        """Another host has joined a launch, or is lost to it."""
        if not self._party.heard(event) or not isinstance(event, NodeLost):
            return
        log.warning("a host's part is gone", node=event.node_rank, host=event.host, death=event.death)
        if self._chunk is None:
            await self._crew.end(exit_grace_sec=0.0)
        elif isinstance(self._crew.group, Group):
            self._crew.group.lose()

    async def rest(self, run_id: RunId) -> None:
        """The run is paused or over: end its warm group."""
        group = self._crew.group
        if group is not None and group.run_id == run_id and self._chunk is None:
            log.info("the run rests, ending its process group", run_id=run_id)
            await self._crew.end()

    # --- beside the handlers ------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Go on with what a trainer before this one left; then end a group that idles for too long."""
        try:
            await self._recover()
            while True:
                await asyncio.sleep(WATCH_SEC)
                if self._chunk is None:
                    await self._crew.end_if_idle()
        finally:
            self._closing = True
            await self._crew.end(exit_grace_sec=0.0)

    async def _recover(self) -> None:
        left = self._ledger.unfinished()
        if not left:
            await self._crew.sweep(None, "left by a trainer that died")
            return
        run_id, plan = left[-1].run_id, left[-1].plan
        log.info("going on with a chunk that was left", run_id=run_id, stage=plan.stage, attempt=plan.attempt)
        try:
            await self.take(run_id, plan, f"{run_id}/{plan.stage}/{plan.attempt}/recovery")
        except (Retry, Reject) as problem:
            log.warning("a chunk that was left is not taken up now", reason=str(problem))

    # --- one chunk ----------------------------------------------------------------------------------------

    async def _open(self, run_id: RunId, plan: ChunkPlan) -> Chunk:
        spec, bundle = await self._runs.spec(run_id), await self._runs.bundle(run_id)
        try:
            policy = Policy.recorded(spec.policy.get("trainer", {}))
            chunk = Chunk(run_id, plan, spec, bundle, policy)
            StageConfig.recorded(plan.parameters)
        except ValidationError as error:
            raise Reject(
                f"the plan of {plan.stage} attempt {plan.attempt} cannot be trained: {error}"
            ) from None
        chunk.stop_asked = chunk.key in self._ledger.stops
        begun = self._ledger.begun.get(chunk.key)
        if begun is not None:
            chunk.launches, chunk.since, chunk.launcher_pid = begun.launches, begun.since, begun.launcher_pid
        return chunk

    async def _work(self, chunk: Chunk) -> list[Message]:
        gone = chunk.gone(begun=self._ledger.knows(chunk.run_id))
        if gone is None:
            # a run that was started from another host has no directory here yet
            chunk.bundle.root.mkdir(parents=True, exist_ok=True)
            outcome = await self._to_the_end(chunk)
            gone = chunk.gone(begun=True) if outcome.reason == "runtime_error" else None
        if gone is not None:
            log.error("the chunk cannot go on", problem=gone)
            outcome = Outcome("stopped", chunk.plan.start_step, await self._crew.end(), gone)
        checkpoints = await self._lineage(chunk) if gone is None else []
        done = messages.done(chunk, outcome, checkpoints)
        self._ledger.done.add(chunk.key)
        self._ledger.stops.discard(chunk.key)
        self._chunk = None  # before the gate can answer
        await self._bus.publish(done)
        chunk.settled.set()  # not when this fails: the command has to come again
        await self._tidy(chunk, checkpoints)
        return []

    async def _to_the_end(self, chunk: Chunk) -> Outcome:
        """Launch, and launch again while nothing but the surroundings are at fault."""
        plan = chunk.plan
        if chunk.launches == 0:
            supersede(chunk.bundle, plan.stage, plan.start_step, plan.attempt)
            chunk.bundle.history(plan.stage, plan.attempt).unlink(missing_ok=True)
        await self._crew.reclaim(chunk)
        relaunches, best = 0, plan.start_step
        while True:
            path, step = resume_point(plan, await self._inventory.look(chunk.bundle, plan.stage))
            if step >= plan.target_step:
                return Outcome("completed", step, await self._end_group_after(chunk))
            if chunk.stop_asked:
                return Outcome("stopped", step, await self._crew.end())
            if (problem := chunk.disk_problem()) is not None:
                return Outcome("runtime_error", step, await self._crew.end(), stderr=problem)
            relaunches, best = (relaunches, best) if step <= best else (0, step)
            oom_kills = host_memory.oom_kills()
            try:
                end = await self._train(chunk, path, step)
            except ConfigurationError as error:
                return Outcome("runtime_error", step, stderr=str(error))
            if isinstance(end, Finished):
                for problem in end.problems:
                    log.warning("training went on, but not all is well", problem=problem)
                stopped = end.reason == "stopped"
                code = await (self._crew.end() if stopped else self._end_group_after(chunk))
                return Outcome(end.reason, end.end_step, code, "\n".join(end.problems), end)
            chunk.recount = end.misjudged
            if end.misjudged:
                continue
            oom_killed = host_memory.rose(oom_kills)
            if chunk.stop_asked:
                continue  # a stop that was asked for is no failure
            own = "killed" if end.hung else chunk.death(end.exit_code, end.stderr, oom_killed=oom_killed)
            death, stderr = await self._party.verdict(own, end.stderr)
            log.warning("the process group is gone", hung=end.hung, exit_code=end.exit_code, death=death)
            if death == "failed":
                self._inventory.forget()  # what it could not use may be broken, though it looks as it did
            _, reached = resume_point(plan, await self._inventory.look(chunk.bundle, plan.stage))
            if death == "failed" and reached < step:
                log.warning("the checkpoint it went on from is broken", path=path, next_step=reached)
                continue
            if death != "killed":
                reason: ChunkEnd = "oom" if death == "oom" else "runtime_error"
                last_words = ends.last_words(stderr, oom_killed=oom_killed and death == "oom")
                return Outcome(reason, reached, end.exit_code, last_words)
            if not self._party.complete:  # it had not begun
                await asyncio.sleep(ABSENT_SEC)
                continue
            relaunches += 1
            if relaunches > chunk.policy.max_relaunches and reached <= best:
                last_words = ends.gave_up(stderr, hung=end.hung)
                return Outcome("runtime_error", reached, end.exit_code, last_words)

    async def _train(self, chunk: Chunk, path: str | None, step: int) -> Finished | Gone:
        """Have a group, warm or new, train the plan from a checkpoint."""
        chunk.launches += 1
        run = Run(
            run_id=chunk.run_id,
            run_name=chunk.bundle.run_name,
            bundle=str(chunk.bundle.root.absolute()),
            data_dir=str(self._data_dir) if self._data_dir is not None else None,
            plan=chunk.plan,
            launch=chunk.launches,
            resume_from=path,
            resume_step=step,
        )
        group, warm = await self._crew.ready_for(chunk, run)
        if not warm:  # at once: from now on the launch before it has nothing to say to this group
            self._party.begin(chunk.run_id, chunk.plan, chunk.launches)
        chunk.launcher_pid = group.pid
        begun = Begun(chunk.run_id, chunk.plan, chunk.launches, chunk.since, group.pid)
        self._ledger.begin(begun)
        await self._bus.publish(messages.started(chunk, group, step, warm=warm))
        chunk.settled.set()
        group.hand(run)  # now that the log has it: what a launch saves that nobody knows of is moved aside
        if chunk.stop_asked:
            group.stop()
        async with self._crew.guarded(chunk):
            if not warm:
                await self._party.call()
            end = await self._finish(chunk, group)
        if isinstance(end, Gone):
            if self._closing:
                await asyncio.Event().wait()  # this service ended it, and is cancelled next
            await self._crew.end(exit_grace_sec=0.0)
        return end

    async def _finish(self, chunk: Chunk, group: AnyGroup) -> Finished | Gone:
        """Wait for the group's end; its step is watched from when all hosts are there."""
        if isinstance(group, Group) and not self._party.complete:
            group.on_exit(self._party.look_again)
            if not await self._party.gathered(lambda: chunk.stop_asked or not group.alive):
                return await group.gone()
        return await group.finish(
            lambda report: self._heard(chunk, report), hang_timeout_sec=chunk.policy.hang_timeout_sec
        )

    async def _end_group_after(self, chunk: Chunk) -> int | None:
        """End the group after its stage, or if none is kept warm; its exit code, none if it lives on."""
        over = chunk.plan.ends_stage or not chunk.policy.warm_workers or chunk.spec.checkout is not None
        return await self._crew.end() if over else None

    async def _heard(self, chunk: Chunk, report: Progress | Saved) -> None:
        if isinstance(report, Saved):
            self._inventory.written(chunk.bundle, report.path)
        else:
            await self._bus.publish(messages.progress(chunk, report))

    async def _lineage(self, chunk: Chunk) -> list[CheckpointInfo]:
        """The stage's checkpoints, and the one the plan started from where that lies elsewhere."""
        found = await self._inventory.look(chunk.bundle, chunk.plan.stage)
        start = chunk.plan.resume_from
        if start is None or start in {each.path for each in found}:
            return found
        return [await self._inventory.inspect(chunk.bundle, chunk.bundle.root / start), *found]

    async def _tidy(self, chunk: Chunk, found: list[CheckpointInfo]) -> None:
        """After a chunk: no stray launcher, and no checkpoint that nobody needs."""
        await self._crew.sweep(chunk, "alive after the chunk")
        keep = self._named.setdefault(chunk.run_id, set())
        for each in await self._bus.events(chunk.run_id, after=self._read.get(chunk.run_id, 0)):
            self._read[chunk.run_id] = each.sequence
            keep |= named(each.message)
        await self._inventory.delete(
            chunk.bundle, disposable(found, keep_last=chunk.policy.keep_last, keep=keep)
        )
