"""The dynamics' tokens in training processes: the same bits from any cache, and memory no file raises."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from services.trainer.wire import Finished, Run
from shared.bundle import Bundle
from shared.config import StageConfig
from shared.events import Stage
from tests.integration.forks import launched
from tests.integration.stand import RUN, TARGET, TINY, load, plan, same
from tests.untrained import save_untrained

HALFWAY = 10
"""Updates after which a run is killed."""
BIG_FRAMES = 5 * 10**9 // (64 * 64 * 3)
UPSTREAM: tuple[Stage, ...] = ("video_tokenizer", "latent_actions")


class Place:
    """A run that trains the dynamics, with a cache of its own."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.root, self.changes = root, changes
        self.bundle = Bundle(root / RUN, "2026_01_01_00_00_00_pong")
        self.changes["upstream"] = {stage: self._untrained(stage) for stage in UPSTREAM}

    @property
    def records(self) -> Path:
        (path,) = (self.root / "cache" / "tokens").iterdir()
        return path

    def run(self, target: int, *, resume: int = 0) -> Run:
        path = self.bundle.relative(self.bundle.checkpoint("dynamics", resume)) if resume else None
        return Run(
            run_id=RUN,
            run_name=self.bundle.run_name,
            bundle=str(self.bundle.root),
            plan=plan("dynamics", 0, target, attempt=1, **self.changes),
            launch=2 if resume else 1,
            resume_from=path,
            resume_step=resume,
        )

    def train(self, *, ranks: int, killed: bool = False) -> Finished:
        resume = HALFWAY if killed else 0
        if killed:
            with launched(self.root, ranks) as group:
                assert group.train(self.run(TARGET), kill_after=HALFWAY) is None
        with launched(self.root, ranks) as group:
            finished = group.train(self.run(TARGET, resume=resume))
        assert finished is not None
        assert finished.reason == "completed"
        return finished

    def weights(self) -> list[Any]:
        return load(self.bundle.checkpoint("dynamics", TARGET))

    def _untrained(self, stage: Stage) -> str:
        """A model for the dynamics to read with: its tokens are as good as any."""
        directory = self.bundle.checkpoint(stage, 1)
        save_untrained(directory, stage, StageConfig.model_validate(TINY))
        return self.bundle.relative(directory)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_training_is_the_same_without_a_cache_filling_one_killed_at_that_and_from_a_torn_one(
    ranks: int, tmp_path: Path
) -> None:
    batch = 8 // ranks  # all windows are seen, about half of them before the kill
    without = Place(tmp_path / "without", batch_size_per_gpu=batch, token_cache_gb=0)
    assert without.train(ranks=ranks).problems == []
    assert not (without.root / "cache" / "tokens").exists()

    filling = Place(tmp_path / "filling", batch_size_per_gpu=batch)
    filling.train(ranks=ranks)
    assert same(without.weights(), filling.weights())

    killed = Place(tmp_path / "killed", batch_size_per_gpu=batch)
    killed.train(ranks=ranks, killed=True)
    assert same(without.weights(), killed.weights())

    torn = Place(tmp_path / "torn", batch_size_per_gpu=batch)
    shutil.copytree(filling.root / "cache", torn.root / "cache")
    content = np.fromfile(torn.records, np.uint8)
    content[: len(content) // 2 : 300] ^= 1  # about every second record of the first half
    content[:-1000].tofile(torn.records)
    torn.train(ranks=ranks)
    assert same(without.weights(), torn.weights())
    # the same file, and what was torn is whole again
    assert torn.records.name == filling.records.name
    assert torn.records.read_bytes() == filling.records.read_bytes() == killed.records.read_bytes()


def test_training_goes_on_without_a_cache_it_cannot_write_and_says_so(tmp_path: Path) -> None:
    place, reference = Place(tmp_path / "a"), Place(tmp_path / "b")
    (place.root / "cache").mkdir(parents=True)
    (place.root / "cache" / "tokens").touch()
    (problem,) = place.train(ranks=1).problems
    assert problem.startswith(f"the token cache in {place.root / 'cache' / 'tokens'} is not used: ")
    assert reference.train(ranks=1).problems == []
    assert same(place.weights(), reference.weights())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_five_gigabytes_of_frames_train_in_the_memory_of_a_small_file(tmp_path: Path) -> None:
    small, big = (
        memory(Place(tmp_path / f"{count}", dataset=str(sparse(tmp_path, count))))
        for count in (1000, BIG_FRAMES)
    )
    assert big["RssAnon"] - small["RssAnon"] < 32 << 20
    assert big["VmHWM"] - small["VmHWM"] < 256 << 20  # with the frames looked at, which the system may drop


def sparse(folder: Path, count: int) -> Path:
    """A recording of black frames that takes no room on the disk."""
    path = folder / f"{count}.h5"
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((count, 64, 64, 3))
        h5py.h5d.create(file.id, b"frames", h5py.h5t.NATIVE_UINT8, space, layout)
    assert path.stat().st_blocks * 512 < 1 << 20
    return path


def memory(place: Place) -> dict[str, int]:
    """Bytes that training takes: at its end and at most, by the names of /proc/<pid>/status."""
    with launched(place.root, 1) as group:
        assert group.train(place.run(10)) is not None
        lines = Path(f"/proc/{group.processes[0].pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: int(fields[name].split()[0]) << 10 for name in ("RssAnon", "VmHWM")}
