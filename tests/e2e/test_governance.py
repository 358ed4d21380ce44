"""Where a run's output lies: in its bundle and nowhere else; and a bundle that was moved is enough."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services import cli
from tests.e2e.world import World
from tests.e2e.writes import Writes

MEMORY = Path("/dev/shm")
Invoke = Callable[..., str]


def test_nothing_was_written_but_bundle_state_and_cache(finished: World, writes: Writes) -> None:
    own = finished.directory
    written = writes.inside(finished.bundle())
    assert any("checkpoints" in path for path in written)  # the ranks were heard
    assert any("docs/action" in path for path in written)
    assert writes.outside(finished.bundle(), own / "state", own / "cache") <= {str(own / "runs")}


def test_every_training_process_is_told_the_bundle(finished: World, writes: Writes) -> None:
    assert writes.told_to_ranks() == {str(finished.bundle())}


def test_nothing_is_left_in_the_home_or_among_temporary_files(finished: World, writes: Writes) -> None:
    for place in (finished.directory / "home", writes.temporary):
        assert [path for path in place.rglob("*") if not path.is_dir()] == []


@pytest.fixture
def worldloop(finished: World, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """The command line in that world, in this process: with its environment, and no server."""
    monkeypatch.chdir(finished.directory)
    for name, value in finished.environment.items():
        monkeypatch.setenv(name, value)

    def invoke(*words: str, codes: tuple[int, ...] = (0,)) -> str:
        result = CliRunner().invoke(cli.app, words)
        assert result.exit_code in codes, (words, result.output, result.exception)
        return result.stdout

    return invoke


@pytest.fixture
def moved(finished: World, worldloop: Invoke, tmp_path: Path) -> Iterator[Path]:
    """A copy of the finished run's bundle, pruned, then moved, to another file system where there is one."""
    copy = tmp_path / "runs" / finished.bundle().name
    shutil.copytree(finished.bundle(), copy, symlinks=True)
    worldloop("bundle", "prune", str(copy), "--keep-last", "1", "--yes")
    place = MEMORY / f"worldloop-{os.getpid()}" if os.access(MEMORY, os.W_OK) else tmp_path / "elsewhere"
    try:
        worldloop("bundle", "move", str(copy), str(place / "kept"))
        assert not copy.exists()
        yield place / "kept"
    finally:
        shutil.rmtree(place, ignore_errors=True)


def test_a_pruned_and_moved_bundle_is_enough(finished: World, worldloop: Invoke, moved: Path) -> None:
    left = {path.name for path in moved.glob("results/*/dynamics/checkpoints/*")}
    assert left == {"dynamics_step_7", "dynamics_step_15", "dynamics_step_23"}
    events = [json.loads(line) for line in worldloop("events", str(moved), "--json").splitlines()]
    assert events == finished.events()
    assert "every one decided the same" in worldloop("replay", str(moved))
    here, there = (
        json.loads(worldloop("diagnose", str(each), "--json", codes=(0, 1, 2)))
        for each in (finished.bundle(), moved)
    )
    assert {stage: Path(path).name for stage, path in there["fallback"].items()} == {
        stage: Path(path).name for stage, path in here["fallback"].items()
    }
    tested = json.loads(worldloop("infer", str(moved), "--json"))
    assert tested["mse"] == finished.named("inference_done")[-1]["mse"]
    listed = json.loads(worldloop("checkpoints", "list", str(moved), "--json"))
    assert len(json.dumps(listed)) > 2
    before = len(list(moved.glob("docs/action/*.md")))
    worldloop("report", str(moved))
    assert len(list(moved.glob("docs/action/*.md"))) >= before
    worldloop("bundle", "verify", str(moved))
