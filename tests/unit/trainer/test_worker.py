"""The training process's parts: what is random, what is written, what goes over the line."""

from __future__ import annotations

import queue
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from pydantic import ValidationError

from services.trainer.outputs import output_file
from services.trainer.wire import ORDER, REPORT, Exit, Finished, Progress, Run, Stop, line
from services.trainer.worker.chunk import Chunk
from services.trainer.worker.history import History
from services.trainer.worker.link import Link
from services.trainer.worker.order import WindowOrder, seed_of
from services.trainer.worker.tracking import Tracking
from shared.bundle import Bundle
from shared.events import ChunkPlan, Schedule

RUN = Run(
    run_id="20260101_000000",
    run_name="2026_01_01_00_00_00_pong",
    bundle="/runs/x",
    plan=ChunkPlan(
        stage="dynamics",
        attempt=1,
        start_step=0,
        target_step=10,
        schedule=Schedule(peak=1e-3, start_step=0, end_step=10),
        parameters={},
    ),
    launch=1,
    resume_from=None,
    resume_step=0,
)


# --- order ------------------------------------------------------------------------------------------------


def test_every_epoch_takes_every_window_once_in_an_order_of_its_own() -> None:
    order = WindowOrder(windows=10, seed=1)
    first, second = order.take(0, 10), order.take(10, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)


def test_the_order_does_not_depend_on_where_one_begins_to_read_it() -> None:
    whole = WindowOrder(windows=7, seed=1).take(0, 50)
    late = WindowOrder(windows=7, seed=1)
    pieces = [late.take(start, 5) for start in range(20, 50, 5)]
    assert np.array_equal(whole[20:], np.concatenate(pieces))
    assert np.array_equal(whole, WindowOrder(windows=7, seed=1).take(0, 50))
    assert not np.array_equal(whole, WindowOrder(windows=7, seed=2).take(0, 50))


def test_seeds_tell_names_apart_and_fit_a_generator() -> None:
    seeds = {seed_of(0, "dynamics", update, micro) for update in range(50) for micro in range(4)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(1, 11) != seed_of(11, 1)


# --- history ----------------------------------------------------------------------------------------------


def write(path: Path, first: int, until: int) -> None:
    with History(path, first) as history:
        for step in range(first, until):
            history.add(step, {"train/loss": step / 3})
        history.flush()


def steps(path: Path) -> list[int]:
    return [int(row.split(",")[0]) for row in path.read_text().splitlines()[1:]]


def test_a_history_is_cut_back_to_where_training_goes_on(tmp_path: Path) -> None:
    path, undisturbed = tmp_path / "attempt_0001.csv", tmp_path / "attempt_0002.csv"
    write(path, 5, 12)
    with path.open("a") as stream:
        stream.write("12,0.")  # killed in the middle of a row
    write(path, 8, 15)
    write(undisturbed, 5, 15)
    assert steps(path) == list(range(5, 15))
    losses = [[row.split(",")[1] for row in each.read_text().splitlines()] for each in (path, undisturbed)]
    assert losses[0] == losses[1]
    assert path.read_text().splitlines()[0] == "_step,train/loss,_runtime"


def test_a_history_that_was_killed_before_its_first_row_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "attempt_0001.csv"
    path.write_text("_step,tra")
    write(path, 0, 2)
    assert steps(path) == [0, 1]


def test_the_runtime_of_a_history_only_rises_over_a_relaunch(tmp_path: Path) -> None:
    path = tmp_path / "attempt_0001.csv"
    path.write_text("_step,train/loss,_runtime\n0,1.0,100.0\n1,1.0,200.0\n")
    write(path, 1, 2)
    last = float(path.read_text().splitlines()[-1].split(",")[-1])
    assert 100.0 <= last < 200.0


# --- line and link ----------------------------------------------------------------------------------------


def test_orders_and_reports_survive_the_line() -> None:
    progress = Progress(step=3, loss=None, learning_rate=1e-3, frames_per_sec=9.5)
    finished = Finished(
        reason="completed",
        end_step=10,
        cpu_seconds=[1.0, 2.0],
        timing={"checkpoint": 0.1},
        wandb_run_id=None,
        wandb_dir=None,
        problems=["wandb could not begin a run"],
    )
    assert [ORDER.validate_json(line(each)) for each in (RUN, Stop())] == [RUN, Stop()]
    assert [REPORT.validate_json(line(each)) for each in (progress, finished)] == [progress, finished]
    with pytest.raises(ValidationError):
        ORDER.validate_json(b'{"kind": "dance"}')


def test_a_stop_is_for_the_plan_that_came_before_it() -> None:
    ours, theirs = socket.socketpair()
    lost = threading.Event()
    link = Link(ours, lost=lost.set)
    with ours, theirs:
        theirs.sendall(line(RUN) + line(Stop()) + line(RUN) + line(RUN))
        assert [link.next_run() for _ in range(3)] == [RUN] * 3
        assert not link.stop_asked
        theirs.sendall(line(Stop()) + line(RUN) + line(Exit()) + line(Stop()))
        assert link.next_run() == RUN
        assert link.next_run() is None
        assert not lost.is_set()
        theirs.shutdown(socket.SHUT_RDWR)
        assert lost.wait(timeout=60)


def test_a_connection_that_breaks_is_lost() -> None:
    ours, theirs = socket.socketpair()
    losses: queue.SimpleQueue[str] = queue.SimpleQueue()
    link = Link(ours, lost=lambda: losses.put("lost"))
    theirs.close()
    assert losses.get(timeout=60) == "lost"
    link.send(Progress(step=1, loss=0.5, learning_rate=1e-3, frames_per_sec=9.5))
    assert losses.get(timeout=60) == "lost"
    ours.close()


# --- replaced ---------------------------------------------------------------------------------------------


def test_ranks_write_nothing_once_their_attempt_was_launched_again(tmp_path: Path) -> None:
    bundle, done = Bundle(tmp_path, RUN.run_name), queue.SimpleQueue[str]()
    session = SimpleNamespace(bundle=bundle, finite=lambda: False)
    desk = SimpleNamespace(history=SimpleNamespace(flush=lambda: done.put("flushed")))
    chunk = Chunk(cast("Any", session), RUN, cast("Any", desk))

    for launch, limit_sec in ((RUN.launch, 60.0), (RUN.launch + 1, 0.3)):
        output = output_file(bundle, RUN.plan, launch)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()
        thread = threading.Thread(target=chunk._keep, args=(1,), daemon=True)
        thread.start()
        thread.join(timeout=limit_sec)
        assert thread.is_alive() == (launch > RUN.launch)
    assert [done.get(), done.empty()] == ["flushed", True]


# --- wandb ------------------------------------------------------------------------------------------------


def test_a_broken_wandb_is_a_problem_to_report_and_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracking = Tracking(tmp_path, "run/dynamics", {}, mode="offline", project="p")
    tracking.begin(0)
    tracking.add(0, {"train/loss": 1.0})
    tracking.close()
    assert tracking.run_id is None
    assert tracking.directory is None
    assert [problem.partition(":")[0] for problem in tracking.problems] == ["wandb could not begin a run"]


def test_a_disabled_wandb_is_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracking = Tracking(tmp_path, "run/dynamics", {}, mode="disabled", project="p")
    tracking.begin(0)
    assert tracking.problems == []
