"""N updates at once, in chunks, relaunched between chunks, killed in the middle of each: the same bits.

Each case trains one stage with some of the features. How ranks come up under a real trainer and torchrun, and
what it does when one dies, is `test_training`'s.
"""

from __future__ import annotations

import csv
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from services.trainer.wire import Run
from shared.bundle import Bundle
from shared.events import Stage
from tests.integration.forks import launched
from tests.integration.stand import RUN, plan, same

TARGET, CHUNK, SAVED = 8, 4, 2
"""Updates; updates of a chunk; updates between checkpoints."""
UPSTREAM: list[Stage] = ["video_tokenizer", "latent_actions"]


@dataclass
class Place:
    """A run's bundle, its plans, and the launches that train them."""

    root: Path
    stage: Stage
    changes: dict[str, Any]
    ranks: int

    def __post_init__(self) -> None:
        self.bundle = Bundle(self.root / RUN, "2026_01_01_00_00_00_pong")

    def run(self, start: int, target: int, *, resume: int | None = None) -> Run:
        """The plan of a chunk; a launch after the first goes on from the checkpoint of `resume` updates."""
        at = start if resume is None else resume
        path = self.bundle.relative(self.bundle.checkpoint(self.stage, at)) if at else None
        return Run(
            run_id=RUN,
            run_name=self.bundle.run_name,
            bundle=str(self.bundle.root),
            plan=plan(
                self.stage,
                start,
                target,
                attempt=1 + start // CHUNK,
                resume_from=path,
                log_interval=SAVED,
                n_updates=TARGET,
                nproc_per_node=self.ranks,
                **self.changes,
            ),
            launch=1 if resume is None else 2,
            resume_from=path,
            resume_step=at,
        )

    def at_once(self) -> None:
        with launched(self.root, self.ranks) as ranks:
            assert ranks.train(self.run(0, TARGET)) is not None
            assert ranks.end() == [0] * self.ranks

    def in_chunks(self) -> None:
        """One warm group trains them all."""
        with launched(self.root, self.ranks) as ranks:
            for start in range(0, TARGET, CHUNK):
                assert ranks.train(self.run(start, start + CHUNK)) is not None

    def relaunched_and_killed(self) -> None:
        """Each chunk begins in a new group, which is killed in its middle; another one trains the rest."""
        for start in range(0, TARGET, CHUNK):
            middle = start + SAVED
            with launched(self.root, self.ranks) as ranks:
                assert ranks.train(self.run(start, start + CHUNK), kill_after=middle) is None
                assert set(ranks.end()) == {-9}
            with launched(self.root, self.ranks) as ranks:
                assert ranks.train(self.run(start, start + CHUNK, resume=middle)) is not None

    def copies(self, upstream: Path) -> dict[Stage, str]:
        """The trained upstream checkpoints, copied into this bundle."""
        found: dict[Stage, str] = {}
        for stage in UPSTREAM:
            target = self.bundle.checkpoint(stage, TARGET)
            shutil.copytree(Place(upstream, stage, {}, 1).bundle.checkpoint(stage, TARGET), target)
            found[stage] = self.bundle.relative(target)
        return found

    def weights(self) -> list[Any]:
        directory = self.bundle.checkpoint(self.stage, TARGET)
        files = ("model_state_dict.pt", "optim_state_dict.pt")
        return [torch.load(directory / name, weights_only=True) for name in files]

    def history(self) -> list[dict[str, str]]:
        """All rows without the one column that is about time."""
        rows: list[dict[str, str]] = []
        for path in sorted((self.bundle.logs / "history" / self.stage).iterdir()):
            with path.open(newline="") as stream:
                rows += [{k: v for k, v in row.items() if k != "_runtime"} for row in csv.DictReader(stream)]
        return rows


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a trained tokenizer and trained latent actions."""
    root = tmp_path_factory.mktemp("upstream")
    for stage in UPSTREAM:
        Place(root, stage, {}, 1).at_once()
    return root


@pytest.mark.parametrize(
    ("stage", "ranks", "changes"),
    [
        ("video_tokenizer", 1, {"optimizer": "muon"}),
        ("video_tokenizer", 2, {"amp": True}),
        ("latent_actions", 1, {"amp": True, "optimizer": "muon"}),
        ("latent_actions", 2, {}),
        ("dynamics", 1, {"use_moe": True, "optimizer": "muon"}),
        ("dynamics", 1, {"dynamics_masking": "tinyworlds", "amp": True}),
        ("dynamics", 2, {"dynamics_masking": "last_frame"}),
        ("dynamics", 2, {"use_moe": True, "dynamics_masking": "tinyworlds", "token_cache_gb": 0}),
    ],
    ids=str,
)
def test_chunked_relaunched_or_killed_training_equals_training_at_once(
    stage: Stage, ranks: int, changes: dict[str, Any], tmp_path: Path, upstream: Path
) -> None:
    def train(how: str) -> Place:
        place = Place(tmp_path / how, stage, dict(changes), ranks)
        if stage == "dynamics":
            place.changes["upstream"] = place.copies(upstream)
        getattr(place, how)()
        return place

    whole = train("at_once")
    assert [int(row["_step"]) for row in whole.history()] == list(range(TARGET))
    assert len({row["train/loss"] for row in whole.history()}) == TARGET
    for how in ("in_chunks", "relaunched_and_killed"):
        other = train(how)
        assert same(whole.weights(), other.weights()), how
        assert whole.history() == other.history(), how


@pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None,
    reason="`compile: true` needs a C++ compiler (g++) here",
)
def test_compiled_training_relaunched_or_killed_equals_training_at_once(tmp_path: Path) -> None:
    machine_code = tmp_path / "inductor"
    machine_code.mkdir()

    def train(how: str) -> Place:
        place = Place(tmp_path / how, "video_tokenizer", {"compile": True}, 1)
        (place.root / "cache").mkdir(parents=True)
        # one for all: making it takes most of the time
        (place.root / "cache" / "inductor").symlink_to(machine_code, target_is_directory=True)
        getattr(place, how)()
        return place

    whole, killed = train("at_once"), train("relaunched_and_killed")
    assert any(machine_code.rglob("*.so"))
    assert same(whole.weights(), killed.weights())
    assert whole.history() == killed.history()
