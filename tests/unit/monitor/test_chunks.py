"""The table of chunks: a fold over events that forgets nothing it needs and reopens nothing that is over."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from services.monitor.core.chunks import Chunks, key
from services.monitor.core.freshness import alerts
from services.monitor.core.gpu import cpu_evidence
from shared.events import AlertRaised, ArtifactEvidence, ChunkDone, ChunkStarted, RunFinished

Start = Callable[..., ChunkStarted]
Done = Callable[..., ChunkDone]
LIMITS = {"progress": 10.0, "history": 20.0}


def artifacts(done: ChunkDone) -> ArtifactEvidence:
    return ArtifactEvidence(
        run_id=done.run_id, stage=done.stage, attempt=done.attempt, history=None, visual=None
    )


def test_a_chunk_begins_with_its_first_launch_whatever_the_launches(started: Start) -> None:
    chunks = Chunks()
    for launch, time in ((1, 100.0), (2, 200.0), (1, 300.0)):
        chunks.fold(started(launch=launch, launcher_pid=launch), time)
    (chunk,) = chunks.running()
    assert (chunk.started, chunk.launched, chunk.launch.launcher_pid) == (100, 200, 2)


def test_a_chunk_is_closed_when_both_evidences_are_out(started: Start, done: Done) -> None:
    chunks, end = Chunks(), done()
    chunks.fold(started(), 100)
    chunks.fold(end, 110)
    assert chunks.running() == []
    chunks.fold(cpu_evidence(end), 111)
    assert chunks.get(key(end)) is not None
    chunks.fold(artifacts(end), 111)
    assert chunks.get(key(end)) is None
    assert chunks.closed(key(end))


def test_a_chunk_is_closed_in_whatever_order_its_end_and_its_evidence_come(
    started: Start, done: Done
) -> None:
    end = done()
    for order in itertools.permutations((end, cpu_evidence(end), artifacts(end))):
        chunks = Chunks()
        chunks.fold(started(), 100)
        for event in order:
            assert chunks.get(key(end)) is not None
            chunks.fold(event, 110)
        assert chunks.get(key(end)) is None, [event.name for event in order]
        assert chunks.closed(key(end))


def test_a_closed_chunk_stays_closed_when_old_events_come_again(started: Start, done: Done) -> None:
    chunks, end = Chunks(), done()
    for event in (started(), end, cpu_evidence(end), artifacts(end), started(attempt=2), started(), end):
        chunks.fold(event, 100)
    assert [chunk.first.attempt for chunk in chunks.running()] == [2]


def test_a_new_chunk_of_the_run_ends_the_watch_on_one_that_never_ended(started: Start) -> None:
    chunks = Chunks()
    chunks.fold(started(attempt=1), 100)
    chunks.fold(started(attempt=2), 200)
    chunks.fold(started(run_id="20260101_000001"), 300)
    assert [(c.first.run_id, c.first.attempt) for c in chunks.running()] == [
        ("20260101_000000", 2),
        ("20260101_000001", 1),
    ]


def test_an_old_chunk_that_is_heard_of_late_does_not_end_the_watch_on_the_one_that_runs(
    started: Start,
) -> None:
    chunks = Chunks()
    chunks.fold(started(attempt=2), 200)
    chunks.fold(started(attempt=1), 300)
    assert not chunks.closed(key(started(attempt=2)))


def test_a_chunk_whose_evidence_is_not_out_is_not_closed_by_the_next_one(started: Start, done: Done) -> None:
    chunks, end = Chunks(), done(attempt=1)
    for event in (started(attempt=1), end, started(attempt=5)):
        chunks.fold(event, 100)
    assert not chunks.closed(key(end))
    for event in (cpu_evidence(end), artifacts(end)):
        chunks.fold(event, 110)
    assert chunks.closed(key(end))
    assert chunks.closed(key(started(attempt=4)))


def test_the_end_of_a_run_ends_the_watch(started: Start) -> None:
    chunks, start = Chunks(), started()
    chunks.fold(start, 100)
    chunks.fold(RunFinished(run_id=start.run_id, status="stopped", degraded=False, reason="x"), 200)
    assert chunks.running() == []


def test_frames_per_update_count_all_ranks_and_micro_batches(started: Start) -> None:
    chunks = Chunks()
    chunks.fold(started(world_size=2), 100)
    assert chunks.running()[0].frames_per_update == 2 * 3 * 2 * 4


def test_silence_is_one_alert_per_episode(started: Start) -> None:
    chunks = Chunks()
    chunks.fold(started(), 100)
    (chunk,) = chunks.running()
    assert alerts(chunk, {"progress": None}, LIMITS, 110) == []
    (alert,) = alerts(chunk, {"progress": None}, LIMITS, 111)
    assert (alert.channel, alert.silence_sec, alert.limit_sec, alert.ordinal) == ("progress", 11, 10, 1)
    assert (alert.stage, alert.attempt) == ("dynamics", 1)
    chunks.fold(alert, 111)
    assert alerts(chunk, {"progress": None}, LIMITS, 500) == []
    assert alerts(chunk, {"progress": 500.0}, LIMITS, 505) == []
    (again,) = alerts(chunk, {"progress": 500.0}, LIMITS, 520)
    assert again.ordinal == 2


def test_each_channel_has_its_own_limit(started: Start) -> None:
    chunks = Chunks()
    chunks.fold(started(), 100)
    (chunk,) = chunks.running()
    found = alerts(chunk, {"progress": 100.0, "history": 100.0}, LIMITS, 115)
    assert [alert.channel for alert in found] == ["progress"]


def test_signs_from_before_a_launch_do_not_count_against_it(started: Start) -> None:
    chunks = Chunks()
    chunks.fold(started(), 100)
    chunks.fold(started(launch=2), 200)
    (chunk,) = chunks.running()
    assert alerts(chunk, {"progress": 120.0}, LIMITS, 205) == []


def test_an_alert_told_twice_counts_once(started: Start) -> None:
    chunks, start = Chunks(), started()
    chunks.fold(start, 100)
    alert = AlertRaised(
        run_id=start.run_id, stage="dynamics", attempt=1, channel="gpu", silence_sec=1, limit_sec=1
    )
    chunks.fold(alert, 150)
    chunks.fold(alert, 250)
    assert chunks.running()[0].alerted == {"gpu": 150}


def test_what_came_before_a_chunk_that_began_is_closed_even_if_nobody_saw_it(started: Start) -> None:
    chunks = Chunks()
    chunks.fold(started(attempt=3), 100)
    assert [chunks.closed(key(started(attempt=attempt))) for attempt in (1, 2, 3, 4)] == [
        True,
        True,
        False,
        False,
    ]
