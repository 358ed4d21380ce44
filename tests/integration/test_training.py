"""Real training processes under the trainer: exact resume, ends of all kinds, the warm group."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.bus.jetstream import JetStreamBus
from shared.events import (
    STAGES,
    ContinueChunk,
    LauncherKilled,
    Stage,
    StopChunk,
)
from tests.integration.stand import (
    RUN,
    TARGET,
    Stands,
    assert_equal,
    checkpoint,
    gone,
    in_pieces,
    plan,
    ranks_of,
    same,
)


@pytest.mark.slow
async def test_one_chunk_equals_three_paused_warm_and_killed_ones_in_each_stage(stands: Stands) -> None:
    whole, pieces = await stands("whole"), await stands("pieces")
    upstream: dict[Stage, str] = {}
    for stage in STAGES:
        one, many = await asyncio.gather(
            # one computes its tokens at each update, the other keeps them
            whole.train(
                plan(stage, 0, TARGET, attempt=1, ends_stage=True, upstream=upstream, token_cache_gb=0)
            ),
            in_pieces(pieces, stage, killed_rank=0, pause=stage == "video_tokenizer", upstream=upstream),
        )
        assert [done.reason for done in (one, *many)] == ["completed"] * 4
        assert [done.launch for done in many] == [1, 1, 2]
        assert [done.exit_code for done in (one, *many)] == [0, None, None, 0]
        assert [each.step for each in many[-1].checkpoints] == [4, 8, 10, 20, 30, 40]
        assert {"first_update_begin", "last_update_end", "checkpoint", "visualization"} == {*many[-1].timing}
        assert_equal(stage, whole, pieces)
        upstream[stage] = checkpoint(one)


@pytest.mark.slow
async def test_two_ranks_are_as_exact_and_their_rows_go_to_wandb(stands: Stands) -> None:
    whole, pieces = await stands("whole"), await stands("pieces")
    one, many = await asyncio.gather(
        whole.train(plan("latent_actions", 0, TARGET, attempt=1, ends_stage=True, nproc_per_node=2)),
        in_pieces(pieces, "latent_actions", killed_rank=1, nproc_per_node=2, wandb="offline"),
    )
    assert [done.launch for done in many] == [1, 1, 2]
    assert len(one.cpu_seconds) == 2
    assert_equal("latent_actions", whole, pieces)
    assert many[0].wandb_run_id == many[1].wandb_run_id != many[2].wandb_run_id
    assert all(list(pieces.bundle.resolve(done.wandb_dir or "").glob("*.wandb")) for done in many)


async def test_a_stop_ends_the_chunk_with_a_checkpoint_and_the_group(stands: Stands) -> None:
    stand = await stands()
    endless = plan("video_tokenizer", 0, 100_000, attempt=1, n_updates=100_000)
    await stand.send(endless)
    await stand.at_work(endless)
    await stand.bus.publish(StopChunk(run_id=RUN, stage="video_tokenizer", attempt=1))
    done = await stand.done(endless)
    assert (done.reason, done.exit_code) == ("stopped", 0)
    assert 0 < done.end_step < 100_000
    assert done.checkpoints[-1].step == done.end_step
    assert not psutil.pid_exists(done.launcher_pid)


async def test_what_needs_no_training_launches_nothing(stands: Stands) -> None:
    stand = await stands()
    passed = plan("video_tokenizer", 0, 0, attempt=1)
    await stand.bus.publish(StopChunk(run_id=RUN, stage="video_tokenizer", attempt=2))
    assert (await stand.train(passed)).reason == "completed"
    await stand.bus.publish(ContinueChunk(run_id=RUN, plan=passed, retry=1))  # changes nothing
    assert (await stand.train(plan("video_tokenizer", 0, TARGET, attempt=2))).reason == "stopped"
    names = [record.message.name for record in await stand.bus.events(RUN)]
    assert names == ["run_started", "chunk_done", "chunk_done"]


async def test_a_bundle_that_was_moved_away_is_missed_and_not_made_anew(
    stands: Stands, tmp_path: Path
) -> None:
    stand = await stands()
    root, elsewhere = stand.bundle.root, tmp_path / "elsewhere"
    root.rename(elsewhere)
    first = await stand.train(plan("video_tokenizer", 0, TARGET, attempt=1, resume_from="gone"))
    second = await stand.train(plan("video_tokenizer", 0, TARGET, attempt=2))
    for done in (first, second):
        assert (done.reason, done.end_step, done.checkpoints) == ("stopped", 0, [])
        assert f"the run's bundle is not at {root}" in done.stderr_tail
        assert f"worldloop bundle move NEW_PLACE {root}" in done.stderr_tail
    assert not root.exists()
    elsewhere.rename(root)
    start = f"results/{stand.bundle.run_name}/video_tokenizer/checkpoints/video_tokenizer_step_9"
    third = await stand.train(plan("video_tokenizer", 10, TARGET, attempt=3, resume_from=start))
    assert f"{root} has no {start} to go on from" in third.stderr_tail
    assert [each.message.name for each in await stand.bus.events(RUN)] == ["run_started"] + ["chunk_done"] * 3


async def test_a_plan_that_could_not_be_launched_is_not_acked(stands: Stands) -> None:
    stand = await stands()
    obstacle = stand.bundle.logs / "training"
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.touch()
    first = plan("video_tokenizer", 0, 4, attempt=1)
    await stand.send(first)
    assert stand.task is not None
    with pytest.raises(ExceptionGroup):
        await stand.task
    obstacle.unlink()
    await stand.serve()
    assert (await stand.done(first)).reason == "completed"


async def test_a_loss_that_is_no_number_leaves_no_checkpoint_and_the_group_begins_afresh(
    stands: Stands,
) -> None:
    stand, other = await stands("a"), await stands("b")
    good = plan("video_tokenizer", 0, 6, attempt=2)
    broken, reference = await asyncio.gather(
        stand.train(plan("video_tokenizer", 0, TARGET, attempt=1, learning_rate=1e30)), other.train(good)
    )
    assert (broken.reason, broken.checkpoints) == ("non_finite", [])
    assert broken.end_step < TARGET
    again = await stand.train(good)
    assert again.launcher_pid == broken.launcher_pid
    assert again.reason == reference.reason == "completed"
    assert same(stand.weights("video_tokenizer", 6), other.weights("video_tokenizer", 6))


async def test_ends_that_are_the_plans_fault_are_reported_and_not_tried_again(stands: Stands) -> None:
    a, b, c = await stands("a"), await stands("b"), await stands("c", min_free_disk_mb=10**12)
    memory, data, disk = await asyncio.gather(
        a.train(plan("video_tokenizer", 0, TARGET, attempt=1, hidden_dim=10**12)),
        b.train(plan("video_tokenizer", 0, TARGET, attempt=1, dataset="nowhere.h5")),
        c.train(plan("video_tokenizer", 0, TARGET, attempt=1)),
    )
    assert [done.reason for done in (memory, data, disk)] == ["oom", "runtime_error", "runtime_error"]
    assert [done.launch for done in (memory, data, disk)] == [1, 1, 1]
    assert "nowhere.h5: no such dataset" in data.stderr_tail
    assert "min_free_disk_mb" in disk.stderr_tail


async def test_a_group_whose_step_stands_still_is_relaunched_until_that_is_in_vain(stands: Stands) -> None:
    stand = await stands("a", hang_timeout_sec=0.2, max_relaunches=1)
    done = await stand.train(plan("video_tokenizer", 0, TARGET, attempt=1))
    assert (done.reason, done.launch) == ("runtime_error", 2)
    assert "hung, and relaunching it did not help" in done.stderr_tail


@pytest.mark.slow
async def test_after_a_trainer_that_was_killed_the_next_one_ends_as_if_nothing_had_happened(
    stands: Stands, fresh_nats_server: Any
) -> None:
    long = plan("video_tokenizer", 0, 200, attempt=1, n_updates=200)
    undisturbed = await stands("undisturbed")
    reference = asyncio.create_task(undisturbed.train(long))
    killed = await stands("killed", bus=await JetStreamBus.connect(fresh_nats_server.url, source="cli"))
    first = killed.start_service(fresh_nats_server.url)
    await killed.send(long)
    members = ranks_of((await killed.at_work(long)).launcher_pid)
    first.kill()
    first.wait()
    for member in members:
        await gone(member.pid)
    stray = killed.start_stray()
    second = killed.start_service(fresh_nats_server.url)
    done = await killed.done(long)
    assert (done.reason, done.launch) == ("completed", 2)
    assert stray.wait() < 0
    assert (await killed.heard(LauncherKilled)).pid == stray.pid
    await reference
    assert same(undisturbed.weights("video_tokenizer", 200), killed.weights("video_tokenizer", 200))
    assert undisturbed.history("video_tokenizer") == killed.history("video_tokenizer")
    second.terminate()
    assert second.wait() == 0
