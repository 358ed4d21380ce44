"""What the trainer decides, as functions of values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.trainer.core import ends
from services.trainer.core.groups import requirements
from services.trainer.core.launch import ENTRY, LAUNCHER, command, device, tuning, world_size
from services.trainer.core.ledger import fold
from services.trainer.core.lineage import disposable, named, resume_point
from shared.bus.protocol import Recorded
from shared.config import Distributed, StageConfig
from shared.events import (
    CheckpointInfo,
    ChunkDone,
    ChunkPlan,
    ChunkStarted,
    GateDecided,
    InferenceDone,
    Message,
    OperatorRequested,
    RunFinished,
    RunResumed,
    Schedule,
)
from tests.unit.gatekeeper.story import Story

RUN, OTHER = "20260101_000000", "20260102_000000"
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def plan(attempt: int = 1, start: int = 0, target: int = 10, **changes: Any) -> ChunkPlan:
    resume = changes.pop("resume_from", None)
    return ChunkPlan(
        stage="dynamics",
        attempt=attempt,
        start_step=start,
        target_step=target,
        schedule=Schedule(peak=1e-3, start_step=0, end_step=100),
        parameters=StageConfig.model_validate(changes).model_dump(mode="json"),
        resume_from=resume,
        upstream={"video_tokenizer": "given/video_tokenizer_step_9"},
    )


# --- which plans share a process group --------------------------------------------------------------------


@pytest.mark.parametrize(
    "knob",
    [
        {"learning_rate": 1e-5},
        {"gradient_accumulation_steps": 3},
        {"log_interval": 7},
        {"batch_size_per_gpu": 2},
        {"n_updates": 5000},
    ],
)
def test_a_group_takes_a_plan_with_other_knobs(knob: dict[str, Any]) -> None:
    assert requirements(RUN, plan()) == requirements(RUN, plan(2, 10, 20, resume_from="x", **knob))


@pytest.mark.parametrize(
    "change",
    [
        {"nproc_per_node": 3},
        {"dataset": "SONIC"},
        {"embed_dim": 64},
        {"seed": 1},
        {"amp": True},
        {"device": "cuda"},
    ],
)
def test_what_is_built_at_launch_needs_a_new_group(change: dict[str, Any]) -> None:
    assert requirements(RUN, plan()) != requirements(RUN, plan(**change))


def test_another_run_stage_or_upstream_needs_a_new_group() -> None:
    wanted = requirements(RUN, plan())
    assert wanted != requirements(OTHER, plan())
    assert wanted != requirements(RUN, plan().model_copy(update={"stage": "latent_actions"}))
    assert wanted != requirements(RUN, plan().model_copy(update={"upstream": {"video_tokenizer": "other"}}))


# --- what an end means ------------------------------------------------------------------------------------

TORCHRUN_REPORT = """
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 4711)
  traceback : Signal 9 (SIGKILL) received by PID 4711
"""


def torchrun_report(*, first: int, others: int) -> str:
    return f"""
services.trainer.worker FAILED
Failures:
[1]:
  rank      : 1 (local_rank: 1)
  exitcode  : {others} (pid: 4712)
Root Cause (first observed failure):
[0]:
  rank      : 0 (local_rank: 0)
  exitcode  : {first} (pid: 4711)
"""


@pytest.mark.parametrize(
    ("exit_code", "stderr", "death"),
    [
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "oom"),
        (1, "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 9 TiB", "oom"),
        (1, "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", "oom"),
        (1, "MemoryError" + TORCHRUN_REPORT, "oom"),
        (-9, "", "killed"),
        (1, "RuntimeError: Connection closed by peer" + TORCHRUN_REPORT, "killed"),
        (1, "KeyError: 'video_tokenizer'", "failed"),
        (1, torchrun_report(first=1, others=-15), "failed"),
        (1, torchrun_report(first=-11, others=1), "killed"),
        (1, torchrun_report(first=-15, others=1), "killed"),
        (1, torchrun_report(first=1, others=-9), "killed"),
        (1, "exitcode  : 1 (pid: 4711)", "failed"),
        (0, "", "failed"),
    ],
)
def test_the_death_of_a_group_is_told_from_its_last_words(exit_code: int, stderr: str, death: str) -> None:
    assert ends.death(exit_code, stderr) == death


def test_an_event_carries_only_the_end_of_a_long_stderr() -> None:
    assert ends.tail(" short \n") == "short"
    tail = ends.tail("x" * 100_000 + "the end")
    assert tail.endswith("the end")
    assert len(tail) <= ends.TAIL + len("[...] ")


def test_the_error_that_came_first_is_carried_though_much_was_written_after_it() -> None:
    first = "[rank0]: OSError: [Errno 28] No space left on device"
    assert ends.tail(f"Traceback\n{first}\n" + "[rank1]: x\n" * 10_000).startswith(f"{first}\n[...] ")


# --- lineage ----------------------------------------------------------------------------------------------


def info(step: int, *, valid: bool = True) -> CheckpointInfo:
    return CheckpointInfo(path=f"step_{step}", step=step, valid=valid)


def test_an_attempt_goes_on_from_its_newest_valid_checkpoint() -> None:
    wanted = plan(start=10, target=30, resume_from="step_10")
    found = [info(5), info(10), info(15), info(20), info(25, valid=False)]
    assert resume_point(wanted, found) == ("step_20", 20)


@pytest.mark.parametrize(("start", "resume_from"), [(10, "step_10"), (0, None)])
def test_an_attempt_without_one_of_its_own_goes_on_from_its_plans(
    start: int, resume_from: str | None
) -> None:
    wanted = plan(start=start, target=30, resume_from=resume_from)
    assert resume_point(wanted, [info(start), info(start + 1, valid=False)]) == (resume_from, start)


def test_retention_keeps_the_newest_valid_ones_and_those_that_are_named() -> None:
    found = [info(10), info(20), info(30, valid=False), info(40), info(50), info(60, valid=False), info(70)]
    assert disposable(found, keep_last=2, keep={"step_20"}) == ["step_10", "step_30", "step_40"]


def test_retention_deletes_nothing_while_there_are_too_few_valid_ones() -> None:
    assert disposable([info(10, valid=False), info(20), info(30)], keep_last=3, keep=set()) == []


def test_what_an_event_goes_on_from_is_named() -> None:
    chunk = started(RUN, 1).model_copy(update={"plan": plan(resume_from="s/dynamics_step_9")})
    assert named(chunk) == {"s/dynamics_step_9", "given/video_tokenizer_step_9"}
    assert named(done(RUN, 1)) == set()
    story = Story().play().log
    gate = next(each.message for each in story if isinstance(each.message, GateDecided))
    apart = {"accepted_checkpoint": "a", "best_checkpoint": "b", "resume_from": "r"}
    assert named(gate.model_copy(update=apart)) == {"a", "b", "r"}
    tested = next(each.message for each in story if isinstance(each.message, InferenceDone))
    assert named(tested) == set(tested.checkpoints.values())
    assert len(named(tested)) == 3


# --- the ledger -------------------------------------------------------------------------------------------


def started(run_id: str, attempt: int, launch: int = 1) -> ChunkStarted:
    return ChunkStarted(
        run_id=run_id,
        stage="dynamics",
        attempt=attempt,
        plan=plan(attempt),
        launch=launch,
        launcher_pid=launch,
        host="here",
        device="cpu",
        world_size=1,
    )


def done(run_id: str, attempt: int) -> ChunkDone:
    return ChunkDone(
        run_id=run_id,
        stage="dynamics",
        attempt=attempt,
        reason="completed",
        start_step=0,
        end_step=10,
        target_step=10,
        launch=1,
        launcher_pid=1,
        device="cpu",
        world_size=1,
        checkpoints=[],
        seconds=1.0,
    )


def finished(run_id: str) -> RunFinished:
    return RunFinished(run_id=run_id, status="stopped", degraded=False, reason="enough")


def recorded(*messages: Message) -> list[Recorded]:
    return [Recorded(n + 1, NOON + timedelta(seconds=n), "trainer", each) for n, each in enumerate(messages)]


def test_a_command_that_comes_after_a_later_attempt_began_is_not_trained() -> None:
    ledger = fold(recorded(started(RUN, 1), done(RUN, 1), started(RUN, 3)))
    assert [n for n in range(1, 6) if ledger.answered((RUN, "dynamics", n))] == [1, 2]
    assert not ledger.answered((RUN, "video_tokenizer", 1)), "each stage counts its own attempts"
    assert not ledger.answered(("20260101_000001", "dynamics", 1)), "each run too"


def test_a_chunk_that_was_started_and_is_not_done_is_left_over_with_its_first_time_and_last_launch() -> None:
    ledger = fold(recorded(started(RUN, 1), done(RUN, 1), started(RUN, 2), started(RUN, 2, launch=2)))
    (left,) = ledger.unfinished()
    assert (left.plan.attempt, left.launches, left.launcher_pid) == (2, 2, 2)
    assert left.since == (NOON + timedelta(seconds=2)).timestamp()
    assert ledger.done == {(RUN, "dynamics", 1)}


def test_a_stop_that_was_asked_for_outlives_the_trainer_until_the_chunk_is_done() -> None:
    stop = OperatorRequested(run_id=RUN, request="stop_run", request_id="1")
    log: list[Message] = [started(OTHER, 1), stop, started(RUN, 1)]
    assert fold(recorded(*log)).stops == {(RUN, "dynamics", 1)}
    log.append(done(RUN, 1))
    assert fold(recorded(*log)).stops == set()
    log += [RunResumed(run_id=RUN, by="operator", reason="on"), started(RUN, 2)]
    assert fold(recorded(*log)).stops == set()


def test_the_chunks_of_runs_that_are_over_stay_where_they_are_until_the_run_is_resumed() -> None:
    log: list[Message] = [started(OTHER, 1), finished(OTHER), started(RUN, 1), done(RUN, 1)]
    assert fold(recorded(*log)).unfinished() == []
    log.append(RunResumed(run_id=OTHER, by="operator", reason="on"))
    assert [each.run_id for each in fold(recorded(*log)).unfinished()] == [OTHER]


# --- launching and guarding -------------------------------------------------------------------------------


def test_one_rank_needs_no_torchrun_and_ddp_can_be_off() -> None:
    config = StageConfig(nproc_per_node=2)
    assert world_size(config) == 2
    assert world_size(StageConfig(nproc_per_node=2, distributed=Distributed(use_ddp=False))) == 1
    assert command("python", 1) == ["python", "-m", ENTRY]
    assert LAUNCHER in command("python", 2)
    assert "--nproc_per_node=2" in command("python", 2)
    assert device(config) == "cpu"


def test_ranks_share_the_cores_and_only_the_cpu_tunes_its_memory() -> None:
    assert tuning("cpu", 2, 8)["OMP_NUM_THREADS"] == "4"
    assert tuning("cpu", 4, 2)["OMP_NUM_THREADS"] == "1"
    assert tuning("cuda", 2, 8) == {"OMP_NUM_THREADS": "4"}
