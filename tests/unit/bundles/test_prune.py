"""Pruning: what goes, and that afterwards a run goes on, is diagnosed and tested as before."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from services.bundles import prune
from services.bundles.core.named import needed
from services.bundles.run import Run, read_run
from services.diagnosis.core.checkpoints import fallback
from services.diagnosis.core.model import Checkpoint
from services.gatekeeper.core.state import RunState
from services.trainer.core.lineage import resume_point
from shared.bundle import Bundle, checkpoint_directories, step_of
from shared.events import STAGES, CheckpointInfo
from tests.unit.bundles.conftest import RUN_NAME, write_checkpoint, write_events, write_run
from tests.unit.gatekeeper.story import RUN_ID, Outcome, Story, run_spec
from tests.unit.gatekeeper.test_properties import Chaos, outcomes, tests, wishes


class Disk:
    """Checkpoints as directories; those in `broken` are not valid."""

    def __init__(self, root: Path, broken: set[str]) -> None:
        self.bundle, self.broken = Bundle(root, RUN_NAME), broken

    def look(self, directories: Sequence[Path]) -> list[CheckpointInfo]:
        paths = [directory.relative_to(self.bundle.root).as_posix() for directory in directories]
        return [
            CheckpointInfo(
                path=path, step=step_of(Path(path)) or 0, valid=path not in self.broken, size_bytes=1
            )
            for path in paths
        ]

    def stage(self, stage: Any) -> list[CheckpointInfo]:
        return self.look([path for _, path in checkpoint_directories(self.bundle.checkpoints(stage))])


def as_diagnosed(info: CheckpointInfo) -> Checkpoint:
    return Checkpoint(
        path=info.path, step=info.step, valid=info.valid, contents=True, empty=False, problem=None,
        size_bytes=1, modified=0.0,
    )  # fmt: skip


def what_counts(disk: Disk, story: Story, state: RunState) -> dict[str, Any]:
    """What resuming, diagnosing and testing the run start from."""
    found = dict[str, Any]()
    for stage in STAGES:
        here = disk.stage(stage)
        safe = fallback([as_diagnosed(each) for each in here])
        found[f"{stage} fallback"] = safe.path if safe is not None else None
        plans = [
            each.plan for each in story.sent if getattr(getattr(each, "plan", None), "stage", "") == stage
        ]
        found[f"{stage} resumed"] = resume_point(plans[-1], here) if plans else None
    found["needed"] = {path for path in needed(state) if (disk.bundle.root / path).exists()}
    found["selected"] = state.selected
    return found


@settings(max_examples=25, deadline=None)
@given(
    drawn=some.lists(outcomes, max_size=12),
    drawn_tests=tests,
    wished=wishes,
    between=some.sets(some.integers(1, 40), max_size=12),
    broken=some.sets(some.integers(1, 40), max_size=6),
    keep=some.integers(1, 4),
)
def test_whatever_the_run_it_goes_on_as_before(
    drawn: list[Outcome],
    drawn_tests: list[dict[str, Any]],
    wished: list[tuple[int, str]],
    between: set[int],
    broken: set[int],
    keep: int,
) -> None:
    story = Chaos(run_spec(), list(drawn), drawn_tests).start()
    for steps, what in wished:
        for _ in range(steps):
            story.step()
        story.wish(what)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / RUN_ID
        bundle, paths = Bundle(root, RUN_NAME), set[str]()
        for stage, steps in story.lineage.items():
            top = max(steps, default=0)
            for step in {*steps, *(each for each in between if each < top)}:
                path = bundle.checkpoint(stage, step)  # type: ignore[arg-type]
                path.mkdir(parents=True)
                if not steps.get(step, step not in broken):
                    paths.add(path.relative_to(root).as_posix())
        write_events(root, story)
        run, disk = read_run(root), Disk(root, paths)
        before = what_counts(disk, story, run.state)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prune, "_inspect", lambda _, directories: disk.look(directories))
            removals = prune.removable(run, keep=keep)
            prune.prune(run, removals)
            assert what_counts(disk, story, run.state) == before
            assert prune.removable(run, keep=keep) == []


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that passed, with checkpoints between its gates."""
    root = write_run(tmp_path / "runs" / RUN_ID, Story())
    bundle = Bundle(root, RUN_NAME)
    for step in (2, 4, 6):
        write_checkpoint(bundle.checkpoint("dynamics", step))
    monkeypatch.setattr(prune, "_inspect", lambda _, found: Disk(root, set()).look(found))
    return read_run(root)


def paths(run: Run, keep: int = 1) -> list[str]:
    return [each.path.rpartition("/")[2] for each in prune.removable(run, keep=keep)]


def test_old_checkpoints_go_and_accepted_ones_stay(run: Run) -> None:
    assert paths(run) == ["dynamics_step_1", "dynamics_step_3", "dynamics_step_5"]
    assert paths(run, keep=4) == ["dynamics_step_1"]
    assert paths(run, keep=6) == []


def test_what_a_report_speaks_of_stays(run: Run) -> None:
    (run.bundle.reports / "loop.md").write_text("the best was `dynamics_step_3`")
    assert paths(run) == ["dynamics_step_1", "dynamics_step_5"]


def test_superseded_checkpoints_go_and_their_pictures_stay(run: Run) -> None:
    aside = run.bundle.superseded("dynamics", 2)
    write_checkpoint(aside / "checkpoints" / "dynamics_step_29")
    (aside / "visualizations").mkdir()
    (aside / "visualizations" / "dynamics_prediction_step_29.png").write_text("picture")
    found = prune.removable(run, keep=6)
    assert [each.why for each in found] == ["superseded"]
    prune.prune(run, found)
    assert [path.name for path in aside.rglob("*.*")] == ["dynamics_prediction_step_29.png"]
    assert not (aside / "checkpoints" / "dynamics_step_29").exists()


def test_what_killed_writers_left_goes_and_what_they_were_replacing_comes_back(run: Run) -> None:
    folder = run.bundle.checkpoints("dynamics")
    write_checkpoint(folder / ".dynamics_step_39.tmp")
    (folder / "dynamics_step_19").rename(folder / ".dynamics_step_19.replaced")
    (run.bundle.logs / ".report.md.77.tmp").write_text("half")
    found = prune.removable(run, keep=6)
    assert {Path(each.path).name for each in found} == {".dynamics_step_39.tmp", ".report.md.77.tmp"}
    prune.prune(run, found)
    assert (folder / "dynamics_step_19" / "state.pt").exists()
    assert not list(run.bundle.root.rglob(".*"))


def test_hard_links_are_no_room_that_is_freed(run: Run) -> None:
    kept = run.bundle.checkpoint("dynamics", 10) / "model_state_dict.pt"
    gone = run.bundle.checkpoint("dynamics", 2)
    before = {each.path: each.size for each in prune.removable(run, keep=1)}
    (gone / "model_state_dict.pt").unlink()
    (gone / "model_state_dict.pt").hardlink_to(kept)
    after = {each.path: each.size for each in prune.removable(run, keep=1)}
    path = gone.relative_to(run.bundle.root).as_posix()
    assert after[path] < before[path]


def test_a_prune_that_dies_leaves_no_half_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = prune.removable(run, keep=1)

    def dies(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prune, "remove", dies)
        with pytest.raises(KeyboardInterrupt):
            prune.prune(run, found)
    gone = run.bundle.root / found[0].path
    assert not gone.exists()
    again = prune.removable(run, keep=1)
    assert f".{gone.name}.tmp" in {Path(each.path).name for each in again}
    prune.prune(run, again)
    assert prune.removable(run, keep=1) == []
