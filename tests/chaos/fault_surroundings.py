"""Disks that are full, broken or read-only, memory that is used up, a clock that jumps."""

from __future__ import annotations

import os
import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import needs
from tests.chaos.deployment import STAGES, Deployment, Disk
from tests.chaos.tally import Tally

HOUR = 3600
ROOM_KB = 1000
"""Holds one checkpoint, and not two."""
Disks = Callable[[Path, int], Disk]
CLOCK = Path(__file__).with_name("clock_shim.c")
pytestmark = pytest.mark.timeout(600)


def test_a_disk_that_is_full_during_a_checkpoint_costs_none_that_was_whole(
    world: Deployment, tally: Tally, small_disk: Disks
) -> None:
    run = world.start(*world.one_stage())
    world.chunks(1)
    disk = small_disk(results(world) / STAGES[0] / "checkpoints", ROOM_KB)
    tally.fault("disk full during a checkpoint")
    world.wait("the failed chunk", lambda: failed(world))
    disk.remount("size=64m")
    world.ends(run)
    chunk = failed(world)[0]
    assert "No space left" in chunk["stderr_tail"]
    assert chunk["checkpoints"]
    assert all(each["valid"] for each in chunk["checkpoints"])
    world.promises(relaunches=0)


def test_a_disk_that_is_full_during_the_history_is_told_and_survived(
    world: Deployment, tally: Tally, small_disk: Disks
) -> None:
    run = world.start(*world.one_stage())
    world.chunks(1)
    disk = small_disk(world.bundle() / "Logs" / "history" / STAGES[0], 8)
    disk.fill()
    tally.fault("disk full during the history")
    world.wait("the failed chunk", lambda: failed(world))
    disk.remount("size=64m")
    world.ends(run)
    assert "No space left" in failed(world)[0]["stderr_tail"]
    world.promises(relaunches=0)


def test_a_disk_that_is_full_during_the_reports_ends_the_run_as_failed(
    world: Deployment, tally: Tally, small_disk: Disks
) -> None:
    run = world.start(*world.one_stage())
    world.chunks(1)
    reports = world.bundle() / "docs" / "action"
    disk = small_disk(reports, 8)
    disk.fill()
    tally.fault("disk full during the reports")
    world.ends(run, code=1)
    disk.remount("size=64m")
    (end,) = world.named("run_finished")
    assert end["status"] == "failed"
    assert "report" in end["reason"]
    problems = [each["error"] for each in world.named("report_written") if not each["ok"]]
    assert problems
    assert all("No space left" in each for each in problems)
    assert world.named("gate_decided")[-1]["decision"] == "continue"
    world.run("report", "loop", str(world.bundle()))  # by hand, once there is room
    assert list(reports.glob("auto-training-loop-report-*.md"))


def test_an_output_root_that_is_read_only_is_refused_before_anything_starts(
    world: Deployment, tally: Tally, small_disk: Disks
) -> None:
    place = world.directory / "read-only"
    small_disk(place, 64).remount("ro")
    tally.fault("read-only output root")
    refused = world.run(*world.train("--output-root", str(place)), code=2)
    assert str(place) in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not list(place.iterdir())


def test_ranks_that_run_out_of_memory_go_on_with_a_smaller_batch(world: Deployment, tally: Tally) -> None:
    run = world.start(*world.one_stage())
    world.checkpoints(STAGES[0], 1)
    for rank in world.training():
        now = rank.memory_info().vms
        rank.rlimit(psutil.RLIMIT_AS, (now, now))
    hungry = world.named("chunk_started")[-1]
    tally.fault("out of memory in a rank")
    world.wait("the failed chunk", lambda: failed(world) or world.seen("run_finished"))
    world.ends(run)
    assert [each["reason"] for each in failed(world)] == ["oom"], failed(world)
    later = [each for each in world.named("chunk_started") if each["attempt"] == hungry["attempt"] + 1]
    batch = hungry["plan"]["parameters"]["batch_size_per_gpu"]
    assert later[0]["plan"]["parameters"]["batch_size_per_gpu"] == batch // 2
    world.promises(relaunches=0)


@pytest.mark.parametrize("how", ["truncated", "bit-flipped", "bit-flipped, its time kept"])
def test_a_damaged_checkpoint_is_never_gone_on_from(
    world: Deployment, undisturbed: Deployment, tally: Tally, how: str
) -> None:
    dice = random.Random(how)
    run = world.start(*world.one_stage())
    world.checkpoints(STAGES[0], 2)
    ranks = world.training()
    ranks[0].suspend()  # nothing newer comes
    world.checkpoints(STAGES[0], 2)
    damage(world.checkpoints(STAGES[0], 2)[-1], how, dice)
    tally.fault(f"checkpoint {how}")
    for rank in reversed(ranks):
        rank.kill()
    world.ends(run)
    world.promises(relaunches=2)  # a rank may be the first to notice
    world.same_as(undisturbed)


@pytest.mark.parametrize("hours", [1, -1])
def test_a_clock_that_steps_by_an_hour_changes_nothing(
    world: Deployment, undisturbed_whole: Deployment, tally: Tally, hours: int, tmp_path: Path
) -> None:
    shim, offset = tmp_path / "clock.so", tmp_path / "offset"
    subprocess.run([needs.program("gcc"), "-O1", "-shared", "-fPIC", "-o", shim, CLOCK, "-ldl"], check=True)
    offset.write_bytes(struct.pack("=q", 0))
    world.environment |= {"LD_PRELOAD": str(shim), "CHAOS_CLOCK": str(offset)}
    run = world.start(*world.train())
    for chunk, step in ((1, hours), (2, 0), (3, hours), (5, 0)):
        world.chunks(chunk)
        with offset.open("r+b") as stream:
            stream.write(struct.pack("=q", step * HOUR))
        tally.fault(f"clock steps by an hour, {'forth' if hours > 0 else 'back'} first")
    world.ends(run)
    world.promises(relaunches=0)
    world.same_as(undisturbed_whole)


def results(world: Deployment) -> Path:
    name: str = world.named("run_started")[0]["spec"]["run_name"]
    return world.bundle() / "results" / name


def failed(world: Deployment) -> list[dict[str, Any]]:
    return [each for each in world.seen("chunk_done") if each["reason"] != "completed"]


def damage(checkpoint: Path, how: str, dice: random.Random) -> None:
    """Break a file of a checkpoint at a random place."""
    path = dice.choice(sorted(checkpoint.glob("*_state_dict.pt")))
    about = path.stat()
    content = bytearray(path.read_bytes())
    at = dice.randrange(len(content))
    if how == "truncated":
        del content[at:]
    else:
        content[at] ^= 1 << dice.randrange(8)
    path.write_bytes(content)
    if "time kept" in how:
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
