"""Moving a bundle: whatever happens it is whole in one place, and nothing goes that was not verified."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.bundles import copying, move, tree
from services.bundles.core.manifest import Manifest
from services.bundles.core.move_report import Moved
from services.bundles.journal import Places, alone
from services.bundles.tree import Entry
from shared.errors import BundleError
from tests.needs import missing, program
from tests.unit.bundles.conftest import fill, snapshot

ROOT = Path(__file__).parents[3]
STAMP = "2026_01_02_03_04_05"
MEMORY = Path("/dev/shm")


def go(source: Path, target: Path) -> Moved:
    return move.move(source, target, run_id="run", stamp=STAMP)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    fill(tmp_path / "runs" / "run")
    return tmp_path / "runs" / "run"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "other" / "run"


@pytest.fixture
def across(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the target were on another file system."""
    monkeypatch.setattr(move._Move, "_rename", lambda *_: False)


def test_a_move_killed_at_any_step_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    place = (MEMORY if os.access(MEMORY, os.W_OK) else tmp_path) / f"worldloop-{os.getpid()}"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.unit.bundles.die_while_moving", str(place)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"renamed \d+\ncopied \d+\n", done.stdout), done.stdout


def test_a_bundle_is_renamed_where_that_can_be_done(source: Path, target: Path) -> None:
    before = snapshot(source)
    assert go(source, target).way == "renamed"
    assert not source.exists()
    assert before.items() <= snapshot(target).items()


@pytest.mark.usefixtures("across")
def test_a_copy_keeps_links_times_modes_and_what_is_empty(source: Path, target: Path) -> None:
    before = snapshot(source)
    moved = go(source, target)
    assert moved.way == "copied"
    assert before.items() <= snapshot(target).items()
    assert (target / "shared").samefile(target / "launches" / "weights")
    assert moved.dangling == []
    assert (source.parent / "outside" / "kept.txt").read_text() == "not ours"


def test_another_file_system_is_another_file_system(source: Path) -> None:
    if not MEMORY.is_dir() or MEMORY.stat().st_dev == source.stat().st_dev:
        missing("a second file system")
    place = MEMORY / f"worldloop-move-{os.getpid()}"
    before = snapshot(source)
    try:
        assert go(source, place / "run").way == "copied"
        assert before.items() <= snapshot(place / "run").items()
        assert not source.exists()
    finally:
        shutil.rmtree(place, ignore_errors=True)


@pytest.mark.usefixtures("across")
def test_holes_stay_holes(source: Path, target: Path) -> None:
    with (source / "sparse").open("wb") as stream:
        stream.truncate(8 << 20)
        stream.seek(4 << 20)
        stream.write(b"in the middle")
    if (source / "sparse").stat().st_blocks * 512 >= 8 << 20:
        missing("a file system with sparse files")
    go(source, target)
    about = (target / "sparse").stat()
    assert about.st_size == 8 << 20
    assert about.st_blocks * 512 < 2 << 20


@pytest.mark.usefixtures("across")
def test_links_that_lead_nowhere_are_kept_and_told(source: Path, target: Path) -> None:
    (source / "own").symlink_to(source / "a.txt")
    assert go(source, target).dangling == ["own"]
    assert "- `own`" in (target / "docs" / "action" / f"asset-move-report-{STAMP}.md").read_text()


@pytest.mark.usefixtures("across")
@pytest.mark.parametrize(
    "change",
    [
        lambda source: (source / "a.txt").write_text("other"),
        lambda source: (source / "late.txt").write_text("new"),
        lambda source: (source / "a.txt").unlink(),
        lambda source: (source / "a.txt").replace(source / "b.txt"),
    ],
    ids=["written", "added", "deleted", "renamed"],
)
def test_a_source_that_changes_meanwhile_is_noticed_and_stays(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Any]
) -> None:
    real = move.copy

    def copy(*arguments: Any) -> Manifest:
        found = real(*arguments)
        change(source)
        return found

    monkeypatch.setattr(move, "copy", copy)
    with pytest.raises(BundleError, match="was changed while it was moved"):
        go(source, target)
    assert not target.exists()
    monkeypatch.undo()
    monkeypatch.setattr(move._Move, "_rename", lambda *_: False)
    after = snapshot(source)
    if (source / "a.txt").exists():
        go(source, target)
        assert after.items() <= snapshot(target).items()
    else:
        with pytest.raises(BundleError, match="holds what the source does not"):  # nothing is guessed
            go(source, target)
        assert snapshot(source) == after


@pytest.mark.usefixtures("across")
def test_a_change_after_the_copy_was_verified_brings_the_source_back(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename

    def rename(self: Path, to: Path) -> Path:
        if self == source:
            (self / "a.txt").write_text("at the last moment")
        return real(self, to)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(BundleError, match=r"the source is not what was verified: a\.txt"):
        go(source, target)
    assert (source / "a.txt").read_text() == "at the last moment"
    assert (target / "a.txt").read_text() == "alpha"


@pytest.mark.usefixtures("across")
def test_a_damaged_copy_is_noticed_and_copied_again(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, before = move.copy, snapshot(source)

    def copy(here: Path, there: Path, entries: Sequence[Entry]) -> Manifest:
        found = real(here, there, entries)
        about = (there / "a.txt").stat()
        (there / "a.txt").write_text("ALPHA")
        os.utime(there / "a.txt", ns=(about.st_atime_ns, about.st_mtime_ns))
        return found

    monkeypatch.setattr(move, "copy", copy)
    with pytest.raises(BundleError, match=r"not what was copied: a\.txt has another checksum"):
        go(source, target)
    assert snapshot(source) == before
    monkeypatch.setattr(move, "copy", real)
    go(source, target)
    assert before.items() <= snapshot(target).items()


@pytest.mark.usefixtures("across")
def test_a_full_disk_says_so_and_the_same_command_goes_on(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real, copied = snapshot(source), copying._copy, list[Path]()

    def full(here: Path, there: Path) -> str:
        if len(copied) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(there))
        copied.append(here)
        return real(here, there)

    monkeypatch.setattr(copying, "_copy", full)
    with pytest.raises(BundleError, match=r"no room is left.*goes on where it was"):
        go(source, target)
    assert snapshot(source) == before
    again = list[Path]()
    monkeypatch.setattr(copying, "_copy", lambda here, there: (again.append(here), real(here, there))[1])
    go(source, target)
    assert not {*copied} & {*again}
    assert before.items() <= snapshot(target).items()


@pytest.mark.usefixtures("across")
def test_too_little_room_is_told_before_anything_is_copied(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))  # type: ignore[attr-defined]
    with pytest.raises(BundleError, match="has 10 bytes free"):
        go(source, target)
    assert not list(Places(source, target).staging.rglob("a.txt"))


def test_a_file_that_cannot_be_read_is_named_before_anything_is_moved(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.access
    monkeypatch.setattr(tree.os, "access", lambda path, mode: Path(path).name != "log" and real(path, mode))
    with pytest.raises(BundleError, match="log cannot be read"):
        go(source, target)
    assert source.exists()
    assert not target.exists()


def test_what_is_no_file_is_refused(source: Path, target: Path) -> None:
    os.mkfifo(source / "pipe")
    with pytest.raises(BundleError, match="pipe is no file, directory or link"):
        go(source, target)


def test_a_place_that_cannot_be_written_is_refused(source: Path) -> None:
    before = snapshot(source)
    with pytest.raises(BundleError, match="Nothing was deleted"):
        go(source, source.parent / "outside" / "kept.txt" / "run")
    assert snapshot(source) == before


def test_nothing_is_overwritten_and_a_bundle_does_not_swallow_itself(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    with pytest.raises(BundleError, match="is there already"):
        go(source, target)
    with pytest.raises(BundleError, match="inside the bundle itself"):
        go(source, source / "wandb" / "run2")
    (source.parent / "link").symlink_to(source)
    with pytest.raises(BundleError, match="name the bundle itself"):
        go(source.parent / "link", target.parent / "new")


@pytest.mark.usefixtures("across")
def test_a_move_to_where_another_was_cut_names_that_one(
    source: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "second" / "run"
    fill(other)

    def full(*_: object) -> Manifest:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(move, "copy", full)
        with pytest.raises(BundleError, match="no room is left"):
            go(other, target)
    with pytest.raises(BundleError, match=f"a move of {other} to {target} was cut"):
        go(source, target)


@pytest.mark.parametrize("end", ["from", "to"])
def test_a_move_at_work_keeps_others_away_and_only_while_it_works(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    fill(source.with_name("second"))
    second = (source, target.with_name("third")) if end == "from" else (source.with_name("second"), target)
    real, refusals = move.survey, list[str]()

    def survey(*arguments: Any) -> Manifest:
        monkeypatch.setattr(move, "survey", real)
        with pytest.raises(BundleError) as refusal:
            go(*second)
        refusals.append(str(refusal.value))
        return real(*arguments)

    before = snapshot(source)
    monkeypatch.setattr(move, "survey", survey)
    go(source, target)
    place = source if end == "from" else target
    assert refusals == [f"another `worldloop bundle move` is at work on {place}: wait for its end"]
    assert before.items() <= snapshot(target).items()
    assert {each.name for each in (*source.parent.iterdir(), *target.parent.iterdir())} == {
        "outside", "second", "run",
    }  # fmt: skip


def test_of_many_moves_at_once_one_moves(source: Path, tmp_path: Path) -> None:
    before, children = snapshot(source), list[int]()
    for number in range(8):
        child = os.fork()
        if child == 0:
            try:
                go(source, tmp_path / "other" / str(number))
            except BundleError:
                os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0] + [1] * 7
    (there,) = (tmp_path / "other").iterdir()
    assert before.items() <= snapshot(there).items()


def test_a_place_is_free_again_after_who_held_it_was_killed(source: Path) -> None:
    child = os.fork()
    if child == 0:
        with alone(source):
            os._exit(9)
    os.waitpid(child, 0)
    with alone(source):
        assert (source.parent / ".run.lock").exists()
    assert not (source.parent / ".run.lock").exists()


@pytest.mark.usefixtures("across")
def test_odd_names_are_moved_and_told_in_one_line(source: Path, target: Path) -> None:
    odd = os.fsdecode(b"not \xff utf-8")
    (source / odd).write_text("odd")
    (source / "line\nend `and` | tab\t").write_text("odder")
    (source / f"lost {odd}").symlink_to("no\nwhere")
    (source / "docs" / "action").mkdir(parents=True)
    (source / "docs" / "action" / ".gitignore").write_bytes(b"\xff\n")
    before = snapshot(source)
    moved = go(source, target)
    after = snapshot(target)
    assert {path for path in before if after.get(path) != before[path]} == {"docs/action/.gitignore"}
    assert moved.dangling == [f"lost {odd}"]
    report = (target / "docs" / "action" / f"asset-move-report-{STAMP}.md").read_text()
    assert "- `lost not \\udcff utf-8`\n" in report


def test_a_place_whose_name_is_no_text_is_refused(source: Path) -> None:
    with pytest.raises(BundleError, match=r"\\udcff is not UTF-8"):
        go(source, source.parent / os.fsdecode(b"\xff"))


def test_a_bundle_is_not_moved_into_another(source: Path) -> None:
    other = source.parent / "second"
    (other / "Logs").mkdir(parents=True)
    (other / "Logs" / "events.jsonl").touch()
    with pytest.raises(BundleError, match=f"inside another bundle, {other}"):
        go(source, other / "results" / "run")
    assert not (other / "results").exists()


@pytest.mark.usefixtures("across")
def test_what_is_written_through_an_open_file_at_the_last_moment_brings_the_source_back(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = move.survey

    def survey(place: Path, *arguments: Any) -> Manifest:
        found = real(place, *arguments)
        if place == Places(source, target).aside:
            with (place / "a.txt").open("a") as stream:
                stream.write("late")
        return found

    monkeypatch.setattr(move, "survey", survey)
    with pytest.raises(BundleError, match=r"was changed while it was moved \(a\.txt\)"):
        go(source, target)
    assert (source / "a.txt").read_text() == "alphalate"


def test_git_never_sees_the_files_of_a_move(source: Path, tmp_path: Path) -> None:
    git = program("git")
    repository = tmp_path / "repository"
    repository.mkdir()

    def run(*words: str) -> str:
        return subprocess.run(
            [git, *words], cwd=repository, check=True, capture_output=True, text=True
        ).stdout

    run("init", "-q")
    go(source, repository / "kept" / "run")
    there = {path.name for path in (repository / "kept" / "run" / "docs" / "action").iterdir()}
    assert there == {f"asset-move-report-{STAMP}.md", f"asset-move-manifest-{STAMP}.txt", ".gitignore"}
    run("add", "-A")
    staged = run("diff", "--cached", "--name-only").splitlines()
    assert "kept/run/a.txt" in staged
    assert not [path for path in staged if "docs" in path]


def test_sha256sum_reads_the_manifest(source: Path, target: Path) -> None:
    check = program("sha256sum")
    (source / "back\\slash and\nline").write_text("odd")
    go(source, target)
    manifest = f"docs/action/asset-move-manifest-{STAMP}.txt"
    done = subprocess.run(
        [check, "--check", "--strict", manifest], cwd=target, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 5
