"""Where a run's output lies: in its bundle and nowhere else; and a bundle that was moved is enough."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.world import World
from tests.e2e.writes import Writes

pytestmark = pytest.mark.timeout(400)
MEMORY = Path("/dev/shm")


def test_nothing_was_written_but_bundle_state_and_cache(finished: World, writes: Writes) -> None:
    own = finished.directory
    written = writes.inside(finished.bundle())
    assert any("checkpoints" in path for path in written)  # the ranks were heard
    assert any("docs/action" in path for path in written)
    assert writes.outside(finished.bundle(), own / "state", own / "cache") <= {str(own / "runs")}


def test_nothing_is_left_in_the_home_or_among_temporary_files(finished: World, writes: Writes) -> None:
    for place in (finished.directory / "home", writes.temporary):
        assert [path for path in place.rglob("*") if not path.is_dir()] == []


@pytest.fixture
def moved(finished: World, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished run's bundle, pruned, then moved, to another file system where there is one."""
    copy = tmp_path / "runs" / finished.bundle().name
    shutil.copytree(finished.bundle(), copy, symlinks=True)
    finished.run("bundle", "prune", str(copy), "--keep-last", "1", "--yes")
    place = MEMORY / f"worldloop-{os.getpid()}" if os.access(MEMORY, os.W_OK) else tmp_path / "elsewhere"
    try:
        finished.run("bundle", "move", str(copy), str(place / "kept"))
        assert not copy.exists()
        yield place / "kept"
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_a_pruned_and_moved_bundle_is_enough(finished: World, moved: Path) -> None:
    left = {path.name for path in moved.glob("results/*/dynamics/checkpoints/*")}
    assert left == {"dynamics_step_7", "dynamics_step_15", "dynamics_step_23"}
    events = [json.loads(line) for line in finished.run("events", str(moved), "--json").stdout.splitlines()]
    assert events == finished.events()
    assert "every one decided the same" in finished.run("replay", str(moved)).stdout
    here, there = (
        json.loads(finished.run("diagnose", str(each), "--json", code=None).stdout)
        for each in (finished.bundle(), moved)
    )
    assert {stage: Path(path).name for stage, path in there["fallback"].items()} == {
        stage: Path(path).name for stage, path in here["fallback"].items()
    }
    tested = json.loads(finished.run("infer", str(moved), "--json").stdout)
    assert tested["mse"] == finished.named("inference_done")[-1]["mse"]
    listed = json.loads(finished.run("checkpoints", "list", str(moved), "--json").stdout)
    assert len(json.dumps(listed)) > 2
    before = len(list(moved.glob("docs/action/*.md")))
    finished.run("report", str(moved))
    assert len(list(moved.glob("docs/action/*.md"))) >= before
    finished.run("bundle", "verify", str(moved))
