"""The chunks that are being watched, as the run's events tell: which are open and since when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from shared.bus.protocol import Recorded
from shared.config import StageConfig
from shared.events import (
    STAGES,
    AlertRaised,
    ArtifactEvidence,
    ChunkDone,
    ChunkStarted,
    Event,
    GpuEvidence,
    RunFinished,
    Stage,
)
from shared.recent import Recent

Key = tuple[str, Stage, int]
"""Run, stage, attempt."""
MOST_RUNS = 4096
"""Runs of which is remembered how far they are closed; of others the log is asked again."""


@dataclass(slots=True)
class Chunk:
    """One chunk, from its first launch to its evidence."""

    first: ChunkStarted
    started: float
    """Unix time of the first `chunk_started`, whatever the launches since."""
    launch: ChunkStarted
    """The newest one."""
    launched: float
    ended: float | None = None
    """Unix time of `chunk_done`."""
    published: set[str] = field(default_factory=set)
    """Names of the evidence that is out."""
    alerted: dict[str, float] = field(default_factory=dict)
    """Channel -> unix time of its last alert."""
    alerts: dict[str, int] = field(default_factory=dict)
    """Channel -> number of alerts so far."""

    @property
    def key(self) -> Key:
        """What names the chunk."""
        return key(self.first)

    @property
    def nnodes(self) -> int:
        """Hosts it spans."""
        return StageConfig.recorded(self.first.plan.parameters).nnodes

    @property
    def frames_per_update(self) -> int:
        """Training frames an update consumes, all ranks."""
        config = StageConfig.recorded(self.first.plan.parameters)
        return (
            config.batch_size_per_gpu
            * config.gradient_accumulation_steps
            * self.first.world_size
            * (config.context_length)
        )

    @property
    def complete(self) -> bool:
        """Over, and all its evidence is out."""
        return self.ended is not None and self.published == {GpuEvidence.name, ArtifactEvidence.name}


def key(event: ChunkStarted | ChunkDone | GpuEvidence | ArtifactEvidence) -> Key:
    """The chunk an event is about."""
    return (event.run_id, event.stage, event.attempt)


def _place(wanted: Key) -> tuple[int, int]:
    """Where a chunk stands among its run's, by what they train: news of one may come late."""
    _, stage, attempt = wanted
    return STAGES.index(stage), attempt


class Chunks:
    """A fold over events; one of a chunk's events may come twice, and only the first counts."""

    def __init__(self) -> None:
        self._chunks: dict[Key, Chunk] = {}
        self._closed: Recent[str, tuple[int, int]] = Recent(MOST_RUNS)
        """Run -> place of the last chunk that was closed: those before it are, too."""

    def get(self, wanted: Key) -> Chunk | None:
        """A chunk whose evidence is not complete yet."""
        return self._chunks.get(wanted)

    def closed(self, wanted: Key) -> bool:
        """Whether nothing more is to be measured: its evidence is out, or its run went on without."""
        last = self._closed.get(wanted[0])
        return last is not None and _place(wanted) <= last and wanted not in self._chunks

    def running(self) -> list[Chunk]:
        """Chunks that have not ended."""
        return [chunk for chunk in self._chunks.values() if chunk.ended is None]

    def fold(self, event: Event, time: float) -> None:
        """Take an event, recorded at `time` (unix seconds)."""
        match event:
            case ChunkStarted():
                self._start(event, time)
            case ChunkDone():
                chunk = self._chunks.get(key(event))
                if chunk is not None and chunk.ended is None:
                    chunk.ended = time
                    self._close_complete(chunk)
            case GpuEvidence() | ArtifactEvidence():
                chunk = self._chunks.get(key(event))
                if chunk is not None:
                    chunk.published.add(event.name)
                    self._close_complete(chunk)
            case AlertRaised():
                self._alert(event, time)
            case RunFinished():
                for chunk in [chunk for chunk in self._chunks.values() if chunk.first.run_id == event.run_id]:
                    self._close(chunk)
            case _:
                pass

    def fold_all(self, records: Iterable[Recorded]) -> Chunks:
        """Take recorded events in order."""
        for record in records:
            self.take(record)
        return self

    def take(self, record: Recorded) -> None:
        """Take the next recorded event."""
        if isinstance(record.message, Event):
            self.fold(record.message, record.time.timestamp())

    def _close_complete(self, chunk: Chunk) -> None:
        if chunk.complete:
            self._close(chunk)

    def _close(self, chunk: Chunk) -> None:
        del self._chunks[chunk.key]
        self._close_until(chunk.first.run_id, _place(chunk.key))

    def _close_until(self, run_id: str, place: tuple[int, int]) -> None:
        self._closed.put(run_id, max(place, self._closed.get(run_id) or place))

    def _start(self, event: ChunkStarted, time: float) -> None:
        if self.closed(key(event)):
            return
        for other in self.running():
            if other.first.run_id == event.run_id and _place(other.key) < _place(key(event)):
                self._close(other)  # the trainer works on one chunk at a time: this one never ended
        stage, attempt = _place(key(event))
        self._close_until(event.run_id, (stage, attempt - 1))  # those that this process never saw, too
        chunk = self._chunks.get(key(event))
        if chunk is None:
            self._chunks[key(event)] = Chunk(event, time, event, time)
        elif event.launch > chunk.launch.launch:
            chunk.launch, chunk.launched = event, time

    def _alert(self, event: AlertRaised, time: float) -> None:
        if event.stage is None or event.attempt is None:
            return
        chunk = self._chunks.get((event.run_id, event.stage, event.attempt))
        if chunk is not None and event.ordinal > chunk.alerts.get(event.channel, 0):
            chunk.alerts[event.channel] = event.ordinal
            chunk.alerted[event.channel] = time
