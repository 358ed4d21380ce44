"""What the trainer does with checkpoints and sheets on the disk, and with processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from services.trainer import processes
from services.trainer.inventory import Inventory, supersede
from shared.bundle import Bundle
from shared.config import StageConfig
from shared.events import Schedule
from shared.sheets import sheet_path
from shared.worldmodel.build import build_model
from shared.worldmodel.checkpoints import save_checkpoint
from shared.worldmodel.optim import make_optimizer

STAGE = "video_tokenizer"
TINY = StageConfig(patch_size=16, embed_dim=16, num_heads=2, hidden_dim=24, num_blocks=1)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path, "2026_01_01_00_00_00_pong")


def save(bundle: Bundle, step: int) -> Path:
    model = build_model(STAGE, TINY)
    optimizer = make_optimizer(model, TINY)
    model(torch.zeros(1, 2, 3, 64, 64)).loss.backward()
    optimizer.step()
    directory = bundle.checkpoint(STAGE, step)
    schedule = Schedule(peak=1e-3, start_step=0, end_step=100)
    save_checkpoint(
        directory, stage=STAGE, model=model, optimizer=optimizer, step=step, config=TINY, schedule=schedule
    )
    return directory


async def test_the_inventory_sees_what_happens_to_a_checkpoint_it_knows(bundle: Bundle) -> None:
    inventory = Inventory()
    first, second = save(bundle, 10), save(bundle, 20)
    inventory.written(bundle, bundle.relative(first))
    found = await inventory.look(bundle, STAGE)
    assert [(each.step, each.valid) for each in found] == [(10, True), (20, True)]
    assert found == await Inventory().look(bundle, STAGE)  # the same as reading it all
    (first / "model_state_dict.pt").write_bytes(b"")
    (second / "state.pt").unlink()
    found = await inventory.look(bundle, STAGE)
    assert [each.valid for each in found] == [False, False]
    assert "model_state_dict.pt has only 0 bytes" in (found[0].problem or "")
    missing = await inventory.inspect(bundle, bundle.checkpoint(STAGE, 99))
    assert (missing.step, missing.valid) == (99, False)


async def test_what_lies_beyond_a_plans_start_leaves_the_lineage_and_is_kept(bundle: Bundle) -> None:
    for step in (10, 20, 30):
        bundle.checkpoint(STAGE, step).mkdir(parents=True)
        sheet = sheet_path(bundle, STAGE, step)
        sheet.parent.mkdir(exist_ok=True)
        sheet.touch()
    supersede(bundle, STAGE, 20, attempt=4)
    bundle.checkpoint(STAGE, 30).mkdir()
    supersede(bundle, STAGE, 10, attempt=4)  # the same attempt, redelivered after a crash
    assert [path.name for path in bundle.checkpoints(STAGE).iterdir()] == [f"{STAGE}_step_9"]
    assert [path.name for path in bundle.visualizations(STAGE).iterdir()] == [
        "video_tokenizer_recon_step_9.png"
    ]
    aside = bundle.superseded(STAGE, 4)
    moved = sorted(path.name for path in (aside / "checkpoints").iterdir())
    assert moved == [f"{STAGE}_step_19", f"{STAGE}_step_29", f"{STAGE}_step_29.2"]
    assert len(list((aside / "visualizations").iterdir())) == 2


def test_what_a_killed_writer_left_is_cleared_before_a_plan_begins(bundle: Bundle) -> None:
    folder = bundle.checkpoints(STAGE)
    for leftover in (f".{STAGE}_step_9.replaced", f".{STAGE}_step_19.tmp"):
        (folder / leftover).mkdir(parents=True)
    supersede(bundle, STAGE, 10, attempt=1)
    assert [path.name for path in folder.iterdir()] == [f"{STAGE}_step_9"]


async def test_retention_deletes_whole_checkpoints(bundle: Bundle) -> None:
    directory = bundle.checkpoint(STAGE, 10)
    (directory / "inner").mkdir(parents=True)
    path = bundle.relative(directory)
    await Inventory().delete(bundle, [path, path])  # what is gone already does no harm
    assert not directory.exists()


async def test_no_checkpoint_is_looked_at_while_it_is_deleted(bundle: Bundle) -> None:
    for step in range(1, 21):
        bundle.checkpoint(STAGE, step).mkdir(parents=True)
    paths = [bundle.relative(bundle.checkpoint(STAGE, step)) for step in range(20, 0, -1)]
    inventory = Inventory()
    found, _ = await asyncio.gather(inventory.look(bundle, STAGE), inventory.delete(bundle, paths))
    assert len(found) == 20
    assert not [each for each in found if "no such directory" in (each.problem or "")]
    assert await inventory.look(bundle, STAGE) == []


STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(600)
"""


def test_a_process_that_ignores_being_asked_is_killed_and_so_are_its_children() -> None:
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STUBBORN!r}])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        members = processes.tree(processes.alive([process.pid]))
        assert len(members) == 2
        asyncio.run(processes.end(members, grace_sec=0.1))
        assert not any(processes.lives(member) for member in members)


def test_a_zombie_does_not_live() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        handle = psutil.Process(process.pid)
        while handle.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert not processes.lives(handle)
        asyncio.run(processes.end([handle], grace_sec=60))
