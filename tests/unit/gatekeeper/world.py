"""A small world for the gatekeeper's pure core: a log, rival gatekeepers, services that answer late or never.

`Gatekeeper` does with the core what `services.gatekeeper.keeper` does, one step at a time, and knows no more
of the log than it has read. `World` is everybody else. Whatever enters the log is shown to the promises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.gatekeeper.core.fold import fold
from services.gatekeeper.core.limits import waiting
from services.gatekeeper.core.pipeline import commands, decide
from services.gatekeeper.core.requests import answer
from services.gatekeeper.core.state import RunState
from shared.bus.protocol import Recorded
from shared.errors import SequenceConflict
from shared.events import (
    CheckpointInfo,
    ChunkCommand,
    ChunkPlan,
    Command,
    EvaluateInference,
    Event,
    OperatorCommand,
    ReportWritten,
    RunSpec,
    StartRun,
    StopChunk,
    WriteReports,
)
from tests.unit.gatekeeper import story
from tests.unit.gatekeeper.promises import Promises
from tests.unit.gatekeeper.story import HEALTHY, Outcome

NOW = datetime(2026, 11, 21, tzinfo=UTC)
LONGEST_SPEECH = 12
"""Most events that follow from one another without anybody else saying anything."""

Key = tuple[str, str, int]
"""Run, stage, attempt."""


@dataclass
class Log:
    """All events in order, and how they are to be true."""

    promises: Promises = field(default_factory=Promises)
    records: list[Recorded] = field(default_factory=list)
    last: dict[str, int] = field(default_factory=dict)
    """Run -> sequence of its last event."""

    def put(self, event: Event) -> int:
        """Record an event, whoever says it."""
        recorded = Recorded(len(self.records) + 1, NOW, "test", event)
        self.records.append(recorded)
        self.last[event.run_id] = recorded.sequence
        self.promises.take(recorded)
        return recorded.sequence

    def append(self, event: Event, *, after: int) -> int:
        """Record an event if the run's last one is still that."""
        if self.last.get(event.run_id, 0) != after:
            raise SequenceConflict("another event of the run came first")
        self.promises.takes_new(event)
        return self.put(event)


class Gatekeeper:
    """One of those who decide; it may be behind, be killed, and lose the race."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.restart()

    def restart(self) -> None:
        """Begin with an empty memory."""
        self.runs: dict[str, RunState] = {}
        self.read = 0
        self.settled = -1
        """How far it had read when it last had nothing more to say."""
        self._published: set[str] = set()

    def hear(self, until: int | None = None) -> None:
        """Read on in the log, to its end if it is not said how far."""
        until = len(self._log.records) if until is None else max(until, self.read)
        for recorded in self._log.records[self.read : until]:
            self._take(recorded)
        self.read = until

    def ask(self, command: OperatorCommand) -> None:
        """An operator's command arrives here."""
        self.hear()
        while (event := answer(self._run(command.run_id), command)) is not None:
            if self._append(event):
                return

    def settle(self, run_id: str, *, dies_after: int | None = None) -> list[Command]:
        """Decide about a run until there is nothing to say, then publish; or die on the way.

        Returns:
            The commands that were not published before.
        """
        for spoken in range(LONGEST_SPEECH):
            state = self._run(run_id)
            events = decide(state, self.ahead(run_id))
            if not events:
                fresh = [each for each in commands(state) if each.id not in self._published]
                self._published.update(each.id for each in fresh)
                for each in fresh:
                    self._log.promises.command(each)
                return fresh
            assert events[0].id not in state.seen, f"decided again: {events[0].id}"
            self._append(events[0])
            if spoken == dies_after:
                self.restart()
                return []
        raise AssertionError(f"the gatekeeper never stops talking: {self._log.records[-1].message.name}")

    def time_passes(self) -> None:
        """What a run waits for with a limit did not come."""
        for run_id in list(self.runs):
            state = self.runs[run_id]
            if not self.ahead(run_id) and (wait := waiting(state)) is not None:
                self._append(wait.over.model_copy(update={"waited_sec": wait.limit_sec}))

    def ahead(self, run_id: str) -> list[str]:
        """Unfinished runs before it, as far as this gatekeeper knows; none of a run that is ending."""
        state = self._run(run_id)
        if state.ending is not None:
            return []
        unfinished = [run for run in self.runs.values() if run.unfinished]
        return [run.run_id for run in unfinished if run.queued_since < state.queued_since]

    def _run(self, run_id: str) -> RunState:
        return self.runs.get(run_id) or RunState(run_id)

    def _take(self, recorded: Recorded) -> None:
        run_id = recorded.message.run_id
        self.runs[run_id] = fold(self._run(run_id), recorded)

    def _append(self, event: Event) -> bool:
        try:
            sequence = self._log.append(event, after=self._run(event.run_id).sequence)
        except SequenceConflict:
            self.hear()
            return False
        self.hear(until=sequence)
        return True


@dataclass(frozen=True)
class Rotten(Outcome):
    """The newest checkpoint from before the chunk's end has gone bad on the disk."""


@dataclass
class Training:
    """The chunk that the trainer has."""

    run_id: str
    plan: ChunkPlan
    stop_asked: bool = False


class World:
    """The log, two gatekeepers, and the services between whom and the log everything may be on its way."""

    def __init__(self) -> None:
        self.log = Log()
        self.gatekeepers = [Gatekeeper(self.log), Gatekeeper(self.log)]
        self.unserved: list[Command] = []
        """Commands that no service has dealt with."""
        self.flying: list[Event] = []
        """What services have said and is not in the log yet."""
        self.delayed: list[Event] = []
        """The same, but it takes longer than everything else."""
        self.training: Training | None = None
        self._mail: set[str] = set()
        self._begun: dict[tuple[str, str], int] = {}
        """Run and stage -> newest attempt the trainer began."""
        self._stops: set[Key] = set()
        self._lineage: dict[tuple[str, str], dict[int, bool]] = {}
        """Run and stage -> step -> whether the checkpoint there is valid."""
        self._reported: set[tuple[str, int, str]] = set()
        self._requests = 0

    @property
    def truth(self) -> dict[str, RunState]:
        """What the log says of every run."""
        return self.log.promises.runs

    # --- operators and gatekeepers ------------------------------------------------------------------------

    def request(self) -> str:
        """A new request id."""
        self._requests += 1
        return f"r{self._requests}"

    def start(self, gatekeeper: int, spec: RunSpec) -> None:
        """An operator starts one more run."""
        run_id = f"20261121_1200{len(self.truth):02d}"
        self.gatekeepers[gatekeeper].ask(StartRun(run_id=run_id, request_id=self.request(), spec=spec))

    def settle(self, gatekeeper: int, dies_after: int | None = None) -> None:
        """A gatekeeper decides whatever it can, and its commands go out once however often they are sent."""
        keeper = self.gatekeepers[gatekeeper]
        for run_id in sorted(keeper.runs, key=lambda each: keeper.runs[each].queued_since):
            fresh = keeper.settle(run_id, dies_after=dies_after)
            self.unserved += [each for each in fresh if each.id not in self._mail]
            self._mail.update(each.id for each in fresh)
        keeper.settled = keeper.read

    # --- services -----------------------------------------------------------------------------------------

    def serve(self, command: Command, numbers: dict[str, object], *, written: bool = True) -> bool:
        """A service takes a command; not a trainer that is busy."""
        if isinstance(command, ChunkCommand) and not self._may_train(command):
            return False
        self.unserved.remove(command)
        match command:
            case ChunkCommand():
                self._train(command)
            case StopChunk():
                self._stops.add((command.run_id, command.stage, command.attempt))
            case EvaluateInference():
                self.flying.append(story.inference_done(command, numbers))
            case WriteReports():
                self.flying += self._reports(command, written=written)
        return True

    def finish(self, how: Outcome) -> None:
        """The chunk in work comes to its end, and the monitor looks at it."""
        training, self.training = self.training, None
        assert training is not None
        run_id, plan = training.run_id, training.plan
        stopped = (run_id, plan.stage, plan.attempt) in self._stops
        how = Outcome(reason="stopped", silent_monitor=True) if stopped else how
        half = (plan.start_step + plan.target_step) // 2
        end = plan.target_step if how.reason == "completed" else half
        steps = self._lineage.setdefault((run_id, plan.stage), {})
        story.save(steps, plan, how, end)
        if isinstance(how, Rotten) and (earlier := [step for step in steps if step < end]):
            steps[max(earlier)] = False
        done = story.chunk_done(plan, how, end, steps, run_id)
        self.flying.append(done.model_copy(update={"checkpoints": _with_start(done.checkpoints, plan)}))
        if not how.silent_monitor:
            self.measure(run_id, plan, how)

    def measure(self, run_id: str, plan: ChunkPlan, how: Outcome = HEALTHY) -> None:
        """The monitor says what it saw."""
        self.flying.append(story.gpu_evidence(plan, how, run_id))
        self.flying.append(story.artifact_evidence(plan, how, run_id))

    def monitor_again(self) -> None:
        """The monitor is brought back, and says what a gate still waits for."""
        for run_id, state in self.truth.items():
            if state.chunk is not None and state.chunk.done is not None and state.chunk.missing:
                self.measure(run_id, state.chunk.plan)

    def deliver(self, event: Event) -> None:
        """Something that was said arrives."""
        self.flying.remove(event)
        self.log.put(event)

    def move(self, how: Outcome, numbers: dict[str, object], *, written: bool = True) -> bool:
        """The next thing that is to be done is done; whether there was any."""
        for index, keeper in enumerate(self.gatekeepers):
            if keeper.settled != len(self.log.records):
                keeper.hear()
                self.settle(index)
                return True
        if self.flying:
            self.deliver(self.flying[0])
            return True
        for command in self.unserved:
            if self.serve(command, numbers, written=written):
                return True
        if self.training is not None:
            self.finish(how)
            return True
        if self.delayed:
            self.flying.append(self.delayed.pop(0))
            return True
        return False

    def _may_train(self, command: ChunkCommand) -> bool:
        now = self.training
        same = now is not None and (now.run_id, now.plan) == (command.run_id, command.plan)
        return now is None or same

    def _train(self, command: ChunkCommand) -> None:
        run_id, plan = command.run_id, command.plan
        if plan.attempt <= self._begun.get((run_id, plan.stage), 0):
            return  # in work, or of the past
        self._begun[run_id, plan.stage] = plan.attempt
        steps = self._lineage.setdefault((run_id, plan.stage), {})
        for step in [step for step in steps if step > plan.start_step]:
            del steps[step]
        self.training = Training(run_id, plan)
        self.flying.append(story.chunk_started(plan, HEALTHY, run_id))

    def _reports(self, command: WriteReports, *, written: bool) -> list[Event]:
        found: list[Event] = []
        for kind in command.kinds:
            key = (command.run_id, command.ordinal, kind)
            if key not in self._reported:
                self._reported.add(key)
                found.append(
                    ReportWritten(
                        run_id=command.run_id,
                        report=kind,
                        path=f"docs/action/{kind}.md" if written else None,
                        ok=written,
                        error=None if written else "the disk is full",
                        ordinal=command.ordinal,
                    )
                )
        return found


def _with_start(found: Sequence[CheckpointInfo], plan: ChunkPlan) -> list[CheckpointInfo]:
    """The trainer also looks at the checkpoint the chunk started from."""
    start = plan.resume_from
    if start is None or start in {info.path for info in found}:
        return list(found)
    given = start.startswith("given/")
    return [CheckpointInfo(path=start, step=plan.start_step, valid=given), *found]
