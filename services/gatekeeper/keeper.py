"""The gatekeeper's shell: follows the log, keeps a state per run, appends decisions, publishes commands.

The state is what the log says and nothing else: what this process appends, it believes only when it reads it
back. So a decision that another gatekeeper, or this one before a crash, made first is the one that counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import structlog

from services.gatekeeper.core.fold import fold
from services.gatekeeper.core.limits import waiting
from services.gatekeeper.core.pipeline import commands, decide
from services.gatekeeper.core.requests import answer
from services.gatekeeper.core.state import RunState
from services.gatekeeper.timers import Timers
from shared.bus.protocol import Bus, Recorded
from shared.errors import BusError, SequenceConflict
from shared.events import Event, GateDecided, Heartbeat, OperatorCommand, OperatorRequested

TICK_SEC = 1.0
"""How often limits are looked at; decisions do not wait for it."""
MOST_ENDED = 32
"""Runs that are kept in mind after their end; others come back from the log at an operator's word."""
LATE_SEC = 0.5
"""After which an event that is in the log and was not read is taken for one that nobody can read."""
LONGEST_STEP_SEC = 5.0
"""Most that counts between two looks: who was stopped, or waited for the bus, could have heard nobody."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Keeper:
    """All runs that are not over, and the one place that decides about them.

    Args:
        bus: Log and commands.
        clock: Monotonic seconds.
        tick_sec: How often limits are looked at.
    """

    def __init__(self, bus: Bus, clock: Callable[[], float], *, tick_sec: float = TICK_SEC) -> None:
        self.runs: dict[str, RunState] = {}
        """With the last that ended."""
        self._forgotten: set[str] = set()
        """The other runs that ended: what comes of them is not folded, but for an operator's word."""
        self._asked: str | None = None
        """The run an operator's command is about, while it is answered."""
        self._bus, self._clock, self._tick_sec = bus, clock, tick_sec
        self._timers = Timers()
        self._published: dict[str, set[str]] = {}
        """Run -> ids of the commands it implied last: those were published."""
        self._settled: dict[str, tuple[RunState, bool]] = {}
        """Run -> its state, and whether others were before it, when nothing more was to be said about it."""
        self._unreadable: set[str] = set()
        """Runs with an event that could not be folded: nothing is decided about them."""
        self._caught_up = False
        self._followed = 0
        """Sequence of the last event that came by following: all before it were read."""
        self._heard = 0
        """Events delivered since the last tick."""
        self._wake = asyncio.Event()
        self._read = asyncio.Event()
        """Set, and replaced, whenever an event was read."""

    # --- background tasks ---------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Fold every event of every run, for ever."""
        async with contextlib.aclosing(self._bus.follow(("event",))) as events:
            async for recorded in events:
                await self._take(recorded)
                self._followed = recorded.sequence
                self._heard += 1
                self._caught_up = recorded.pending == 0
                if self._caught_up:
                    self._wake.set()

    async def listen(self) -> None:
        """Note which commands services are working on, for ever."""
        async with contextlib.aclosing(self._bus.follow(("telemetry",), names=(Heartbeat.name,))) as readings:
            async for recorded in readings:
                if isinstance(recorded.message, Heartbeat):
                    self._timers.hold_back(recorded.message.working_on)

    async def work(self) -> None:
        """Decide whenever something has come, and append what did not come in time, for ever."""
        last = self._clock()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, last + self._tick_sec - self._clock())):
                    await self._wake.wait()
            self._wake.clear()
            now = self._clock()
            try:
                if now - last >= self._tick_sec:
                    elapsed, last = min(now - last, LONGEST_STEP_SEC), now
                    await self._tick(elapsed)
                if self._caught_up:
                    await self._evaluate()
            except BusError as problem:
                log.warning("cannot go on for now; trying again", problem=str(problem))

    # --- an operator's command ----------------------------------------------------------------------------

    async def request(self, command: OperatorCommand) -> None:
        """Append an operator's command as a wish, or why it is refused; once, however often it comes.

        Raises:
            BusError: The log cannot be reached.
        """
        run_id = self._asked = command.run_id
        try:
            await self._catch_up()
            await self._remember(run_id)
            while (event := answer(self._run(run_id), command)) is not None:
                try:
                    await self._bus.append(event, after=self._run(run_id).sequence)
                except SequenceConflict as conflict:
                    await self._resolve(run_id, conflict)
                    continue
                reason = getattr(event, "reason", None)
                log.info(event.name, run_id=run_id, request=command.name, reason=reason)
                return
        finally:
            self._asked = None

    # --- deciding -----------------------------------------------------------------------------------------

    async def _tick(self, elapsed: float) -> None:
        """Time passes: it counts only while connected and caught up."""
        if self._heard == 0 and self._bus.connected:
            self._caught_up = True  # the last event of the log may be one that nobody can read
        counts = self._bus.connected and self._caught_up
        self._heard = 0
        self._forget()
        waits = [wait for state, ahead in self._queue() if not ahead and (wait := waiting(state)) is not None]
        for wait, waited_sec in self._timers.advance(waits, elapsed if counts else 0.0):
            event = wait.over.model_copy(update={"waited_sec": round(waited_sec, 3)})
            log.warning(event.name, run_id=event.run_id, waited_sec=event.waited_sec, what=wait.key)
            await self._append(event)

    async def _evaluate(self) -> None:
        for state, ahead in list(self._queue()):
            known, behind = self._settled.get(state.run_id, (None, False))
            if known is not state or behind is not bool(ahead):  # else the answer would be the same
                await self._settle(state.run_id)

    def _queue(self) -> Iterator[tuple[RunState, list[str]]]:
        """The unfinished runs in order, each with those before it; one that is ending waits for none."""
        unfinished = (
            run for run in self.runs.values() if run.unfinished and run.run_id not in self._unreadable
        )
        ahead: list[str] = []
        for state in sorted(unfinished, key=lambda run: run.queued_since):
            yield state, [] if state.ending is not None else list(ahead)
            ahead.append(state.run_id)

    async def _settle(self, run_id: str) -> None:
        """Append what is to be decided about a run until there is nothing more; then publish its commands."""
        while True:
            ahead = next((before for run, before in self._queue() if run.run_id == run_id), [])
            state = self._run(run_id)
            events = decide(state, ahead)
            if not events:
                break
            if events[0].id in state.seen:
                log.error("decided what was decided before; leaving the run alone", decided=events[0].id)
                self._unreadable.add(run_id)
                return
            await self._append(events[0])
        before = self._published.setdefault(run_id, set())
        implied = commands(state)  # of a queued run there are none
        for command in implied:
            if command.id not in before:
                await self._bus.publish(command)
                before.add(command.id)
        self._published[run_id] = {command.id for command in implied}
        self._settled[run_id] = (state, bool(ahead))

    async def _append(self, event: Event) -> None:
        """Append, and wait until the event, or the one that came before it, was read back."""
        run_id = event.run_id
        try:
            sequence = await self._bus.append(event, after=self._run(run_id).sequence)
        except SequenceConflict as conflict:
            await self._resolve(run_id, conflict)
            return
        if isinstance(event, GateDecided):
            log.info(
                "decided",
                run_id=run_id,
                stage=event.stage,
                attempt=event.attempt,
                decision=event.decision,
                verdict=event.verdict,
                reason=event.reason,
            )
        while self._run(run_id).sequence < sequence:
            await self._read.wait()

    # --- reading ------------------------------------------------------------------------------------------

    def _run(self, run_id: str) -> RunState:
        return self.runs.get(run_id) or RunState(run_id)

    async def _take(self, recorded: Recorded) -> None:
        """Fold one event; one that was folded before changes nothing."""
        run_id = recorded.message.run_id
        if run_id in self._forgotten and isinstance(recorded.message, OperatorRequested):
            await self._remember(run_id)
        if run_id not in self._forgotten:
            self._fold(recorded)

    def _fold(self, recorded: Recorded) -> None:
        run_id = recorded.message.run_id
        try:
            self.runs[run_id] = fold(self._run(run_id), recorded)  # also one that was passed over by mistake
        except Exception:
            log.exception("an event cannot be folded; nothing more is decided about its run", run_id=run_id)
            self._unreadable.add(run_id)
            self._skip(run_id, recorded.sequence)
        self._read.set()
        self._read = asyncio.Event()

    async def _remember(self, run_id: str) -> None:
        """Have a run's state again if it was let go."""
        if run_id in self._forgotten:
            past = [recorded async for recorded in self._bus.past(run_id)]
            self._forgotten.discard(run_id)
            for recorded in past:
                self._fold(recorded)

    def _forget(self) -> None:
        """Let go of runs that are over: there may be thousands, and each holds its whole configuration."""
        over = [run_id for run_id, run in self.runs.items() if not run.unfinished and run_id != self._asked]
        for run_id in sorted(over, key=lambda each: self.runs[each].sequence)[: -MOST_ENDED or None]:
            del self.runs[run_id]
            self._published.pop(run_id, None)
            self._settled.pop(run_id, None)
            self._forgotten.add(run_id)

    async def _catch_up(self) -> None:
        """Fold what the log has beyond what was read: of all runs, or the queue would be out of date."""
        async for recorded in self._bus.past(after=self._followed):
            await self._take(recorded)

    async def _resolve(self, run_id: str, conflict: SequenceConflict) -> None:
        """Fold what came first; the run's last events may be such that nobody can read.

        Raises:
            BusError: There is something that cannot be read, and the bus does not say where it ends.
        """
        before = self._run(run_id).sequence
        await self._catch_up()
        if conflict.last is not None:
            if self._run(run_id).sequence < conflict.last:  # in a cluster it may be read a moment later
                await asyncio.sleep(LATE_SEC)
                await self._catch_up()
            self._skip(run_id, conflict.last)
        elif self._run(run_id).sequence == before:
            raise BusError(
                f"run {run_id}: the log has an event after {before} that cannot be read"
            ) from conflict

    def _skip(self, run_id: str, sequence: int) -> None:
        """Pass over events that nobody can read."""
        self.runs[run_id] = self._run(run_id).past(sequence)
