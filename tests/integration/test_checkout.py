"""A TinyWorlds checkout under the trainer: real scripts, real torchrun, and the ways they fail."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.trainer.checkout.group import CheckoutGroup
from services.trainer.group import Gone
from services.trainer.wire import Finished
from shared.bus.jetstream import JetStreamBus
from shared.checkout import locate
from shared.events import ChunkDone, ChunkStarted, LauncherKilled, Stage, StopChunk
from shared.sheets import read_sheet
from shared.wandb_file import WandbFile
from tests.integration.stand import RUN, Stand, Stands, checkpoint, gone, plan
from tests.standins.checkouts import Way, build, digest

pytestmark = pytest.mark.slow
GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden" / "tinyworlds_run" / "results"
FEW = {"log_interval": 4, "overshoot": 3, "n_updates": 20}


async def over(stands: Stands, root: Path, way: Way, **more: Any) -> Stand:
    """A run that a stand-in trains."""
    return await stands(checkout=locate(build(root, way), python=Path(sys.executable)), **more)


def steps(done: ChunkDone) -> list[tuple[int, bool]]:
    return [(each.step, each.valid) for each in done.checkpoints]


def rows(stand: Stand, stage: Stage) -> list[int]:
    return [int(row["_step"]) for row in stand.history(stage)]


async def test_an_absolute_checkout_goes_on_where_it_was_and_leaves_no_launcher(
    stands: Stands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "checkout"
    stand = await over(stands, root, "absolute")
    before = digest(root)
    first = await stand.train(plan("latent_actions", 0, 6, attempt=1, **FEW))
    monkeypatch.setenv("STANDIN_FAIL", "stale")
    second = await stand.train(plan("latent_actions", 6, 10, attempt=2, resume_from=checkpoint(first), **FEW))
    assert [(done.reason, done.exit_code, done.end_step) for done in (first, second)] == [
        ("completed", 0, 6),
        ("completed", 0, 10),
    ]
    assert steps(second) == [(1, True), (5, True), (6, True), (9, True), (10, True)]
    assert rows(stand, "latent_actions") == list(range(10))
    assert second.wandb_dir is not None
    (log,) = stand.bundle.resolve(second.wandb_dir).glob(f"*{second.wandb_run_id}.wandb")
    logged = [row["train/loss"] for row in WandbFile(log).rows()]
    losses = [float(row["train/loss"]) for row in stand.history("latent_actions")]
    assert losses[6:] == [2 * loss for loss in logged]  # it was divided by the accumulation
    assert "saw-tooth" in second.stderr_tail
    assert second.visualization is not None
    assert second.visualization.endswith("_step_8.png")
    assert read_sheet(stand.bundle.resolve(second.visualization)).generated.shape[:2] == (4, 3)
    assert len(second.cpu_seconds) == 1
    left = [process for process in psutil.process_iter() if str(root) in _directory(process)]
    assert left == []
    assert not (stand.bundle.root / "launches").exists()
    assert digest(root) == before


async def test_a_relative_checkout_is_found_out_and_keeps_absolute_steps(
    stands: Stands, tmp_path: Path
) -> None:
    root = tmp_path / "checkout"
    stand = await over(stands, root, "relative_unseen")
    before = digest(root)
    first = await stand.train(plan("video_tokenizer", 0, 6, attempt=1, **FEW))
    assert (first.reason, first.end_step, steps(first)) == ("completed", 7, [(1, True), (4, True), (7, True)])
    second = await stand.train(
        plan("video_tokenizer", 7, 10, attempt=2, resume_from=checkpoint(first), **FEW)
    )
    assert (second.reason, second.end_step, second.launch) == ("completed", 10, 2)  # the first was misjudged
    starts = [
        await stand.heard(ChunkStarted, lambda event, n=n: (event.attempt, event.launch) == (2, n))
        for n in (1, 2)
    ]
    assert [start.recount for start in starts] == [False, True]
    assert steps(second) == [(1, True), (4, True), (7, True), (8, True), (10, True)]
    assert rows(stand, "video_tokenizer") == list(range(10))
    names = {path.name for path in stand.bundle.visualizations("video_tokenizer").glob("*.png")}
    assert names == {f"video_tokenizer_recon_step_{step}.png" for step in (0, 3, 6, 7, 9)}
    assert "empty optimizer" in second.stderr_tail
    assert digest(root) == before


@pytest.mark.parametrize(
    ("fail", "at", "reason", "words"),
    [
        ("oom", -1, "oom", "CUDA out of memory"),
        ("exit", -1, "runtime_error", "the stand-in was told to fail"),
        ("killed", -1, "runtime_error", "was killed, and relaunching it did not help"),
        ("nan", 3, "non_finite", ""),
    ],
)
async def test_how_a_script_fails_is_told(
    stands: Stands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fail: str,
    at: int,
    reason: str,
    words: str,
) -> None:
    stand = await over(stands, tmp_path / "checkout", "absolute", max_relaunches=0)
    monkeypatch.setenv("STANDIN_FAIL", fail)
    monkeypatch.setenv("STANDIN_AT", str(at))
    done = await stand.train(plan("video_tokenizer", 0, 6, attempt=1, **FEW))
    assert done.reason == reason
    assert words in done.stderr_tail
    if fail == "nan":
        assert [row["train/loss"] for row in stand.history("video_tokenizer")][3] == "nan"
        assert not [step for step, valid in steps(done) if valid and step > 3]


async def test_without_wandb_the_bar_tells_and_a_last_step_not_saved_leaves_the_one_before(
    stands: Stands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = await over(stands, tmp_path / "checkout", "absolute")
    monkeypatch.setenv("STANDIN_FAIL", "wandb_off,no_visualization,no_last_checkpoint")
    done = await stand.train(plan("video_tokenizer", 0, 6, attempt=1, **FEW))
    assert (done.reason, done.end_step, steps(done)) == ("completed", 6, [(1, True)])
    assert (done.history, done.visualization, done.wandb_dir) == (None, None, None)
    assert "no history" in done.stderr_tail
    monkeypatch.setenv("STANDIN_FAIL", "wandb_off,no_visualization,no_checkpoint")
    more = plan("video_tokenizer", 1, 6, attempt=2, resume_from=checkpoint(done), **FEW)
    none = await stand.train(more)
    assert (none.reason, none.end_step, steps(none)) == ("completed", 6, [(1, True)])


async def test_two_ranks_run_under_torchrun_and_a_second_writer_is_noticed(
    stands: Stands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = await over(stands, tmp_path / "checkout", "absolute")
    monkeypatch.setenv("STANDIN_FAIL", "empty_optimizer")
    monkeypatch.setenv("STANDIN_CUDA", "1")
    wanted = plan("video_tokenizer", 0, 3, attempt=1, device="cuda", nproc_per_node=2, **FEW)
    done = await stand.train(wanted)
    assert (done.reason, done.world_size, len(done.cpu_seconds)) == ("completed", 2, 2)
    assert steps(done) == [(1, False), (3, False)]
    assert "optim_state_dict.pt" in (done.checkpoints[-1].problem or "")


class Patience(float):
    """The limit of a launch that will hang: short once it does; starting takes as long as it takes."""

    once: Path
    """There when the script hangs."""

    def __lt__(self, still: float) -> bool:
        return self.once.exists() and still > 2


async def test_a_script_that_hangs_is_launched_again_and_goes_on(
    stands: Stands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, finish = [Patience(600)], CheckoutGroup.finish
    limits[0].once = tmp_path / "once"

    async def impatient(group: CheckoutGroup, heard: Any, *, hang_timeout_sec: float) -> Finished | Gone:
        assert hang_timeout_sec == 600, "the policy's"
        return await finish(group, heard, hang_timeout_sec=limits.pop() if limits else hang_timeout_sec)

    monkeypatch.setattr(CheckoutGroup, "finish", impatient)
    stand = await over(stands, tmp_path / "checkout", "absolute")
    run = next(GOLDEN.iterdir())
    upstream: dict[Stage, str] = {}
    for stage in ("video_tokenizer", "latent_actions"):
        found = next((run / stage / "checkpoints").iterdir())
        shutil.copytree(found, stand.bundle.checkpoints(stage) / found.name)
        upstream[stage] = stand.bundle.relative(stand.bundle.checkpoints(stage) / found.name)
    monkeypatch.setenv("STANDIN_FAIL", "hang")
    monkeypatch.setenv("STANDIN_ONCE", str(tmp_path / "once"))
    done = await stand.train(plan("dynamics", 0, 6, attempt=1, upstream=upstream, **FEW))
    assert (done.reason, done.end_step, done.launch) == ("completed", 6, 2)
    assert rows(stand, "dynamics") == list(range(6))


async def test_a_stop_ends_the_script_at_its_newest_checkpoint(
    stands: Stands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = await over(stands, tmp_path / "checkout", "absolute")
    monkeypatch.setenv("STANDIN_FAIL", "slow")
    endless = plan("video_tokenizer", 0, 1000, attempt=1, **(FEW | {"n_updates": 1000}))
    await stand.send(endless)
    started = await stand.at_work(endless)
    await stand.bus.publish(StopChunk(run_id=RUN, stage="video_tokenizer", attempt=1))
    done = await stand.done(endless)
    assert (done.reason, done.end_step) == ("stopped", done.checkpoints[-1].step)
    await gone(started.launcher_pid)


async def test_after_a_trainer_that_was_killed_the_next_one_takes_over_what_was_written(
    stands: Stands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_nats_server: Any
) -> None:
    bus = await JetStreamBus.connect(fresh_nats_server.url, source="cli")
    stand = await over(stands, tmp_path / "checkout", "relative", bus=bus)
    long = plan("video_tokenizer", 0, 9, attempt=1, **FEW)
    monkeypatch.setenv("STANDIN_FAIL", "hang")
    monkeypatch.setenv("STANDIN_AT", "6")
    monkeypatch.setenv("STANDIN_ONCE", str(tmp_path / "once"))
    first = stand.start_service(fresh_nats_server.url)
    await stand.send(long)
    started = await stand.heard(ChunkStarted)
    while not (tmp_path / "once").exists():  # noqa: ASYNC110 - a file tells no event
        await asyncio.sleep(0.05)
    first.kill()
    first.wait()
    second = stand.start_service(fresh_nats_server.url)
    done = await stand.done(long)
    assert (await stand.heard(LauncherKilled)).pid == started.launcher_pid
    assert (done.reason, done.launch, done.end_step) == ("completed", 2, 9)
    assert [step for step, valid in steps(done) if valid] == [1, 5, 6, 9]
    assert rows(stand, "video_tokenizer") == list(range(9))
    second.terminate()
    assert second.wait() == 0


def _directory(process: psutil.Process) -> str:
    try:
        return process.cwd()
    except psutil.Error:
        return ""
