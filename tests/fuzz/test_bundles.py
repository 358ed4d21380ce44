"""A bundle from elsewhere: whatever lies in it, commands answer or say why not, and touch nothing outside."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.bundles import verify
from services.bundles.run import EVENTS
from shared.bundle import Bundle
from shared.bus.journal import to_line
from shared.events import Event, Message, OperatorRequested
from tests.fuzz import memory
from tests.fuzz.absurd import ORDINARY, OTHER_RUN, histories, recorded
from tests.fuzz.commands import CONTROLS, answered
from tests.fuzz.effort import tries
from tests.fuzz.mutants import Damages, after, damages
from tests.fuzz.subjects import HISTORY, sheet
from tests.unit.bundles.conftest import RUN_NAME, snapshot, write_checkpoint, write_run
from tests.unit.gatekeeper.story import RUN_ID, Story

HERE = f"runs/{RUN_ID}"
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("diagnose", HERE),
    ("diagnose", HERE, "--json"),
    ("replay", HERE),
    ("replay", HERE, "--json"),
    ("events", HERE),
    ("status", HERE),
    ("watch", HERE, "--once"),
    ("report", HERE),
    ("report", "wandb", HERE),
    ("history", "export", HERE),
    ("bundle", "list", "--output-root", "runs"),
    ("bundle", "verify", HERE, "--seal"),
    ("bundle", "prune", HERE, "--yes", "--keep-last", "0"),
    ("bundle", "move", HERE, "moved"),
    ("infer", HERE),
    ("play", HERE, "--check"),
    ("checkpoints", "list", HERE),
)
ODD: Mapping[str, Callable[[Path, Path], object]] = {
    "nothing": lambda path, outside: None,
    "an empty file": lambda path, outside: path.touch(),
    "a directory": lambda path, outside: path.mkdir(),
    "a link to itself": lambda path, outside: path.symlink_to(path.name),
    "a link to a directory outside": lambda path, outside: path.symlink_to(outside),
    "a link to a file outside": lambda path, outside: path.symlink_to(outside / "kept.md"),
    "a link to nothing outside": lambda path, outside: path.symlink_to(outside / "new"),
    "a pipe": lambda path, outside: os.mkfifo(path),
    "a link to a device": lambda path, outside: path.symlink_to("/dev/zero"),
}
"""What may lie in a bundle in the place of a file or directory."""
thoroughly = tries(0.2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each example begins with: a run that passed, and a directory that is none of its business."""
    made = tmp_path_factory.mktemp("made")
    bundle = Bundle(write_run(made / HERE, Story()), RUN_NAME)
    write_checkpoint(bundle.superseded("dynamics", 2) / "checkpoints" / "dynamics_step_9")
    history = bundle.history("dynamics", 1)
    history.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HISTORY, history)
    bundle.visualizations("dynamics").mkdir(parents=True, exist_ok=True)
    sheet(bundle.visualizations("dynamics") / "dynamics_prediction_step_4.png")
    verify.seal(bundle.root, "2026_11_21_12_00_00")
    outside = made / "outside"
    write_checkpoint(outside / "dynamics_step_9")
    write_checkpoint(outside / "checkpoints" / "dynamics_step_9")
    for hidden in (".x.tmp", ".dynamics_step_9.tmp", ".dynamics_step_9.replaced"):
        (outside / hidden).mkdir()
    (outside / "kept.md").write_text("not ours")
    return made


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server is asked."""
    monkeypatch.setenv("WORLDLOOP_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Makes a fresh copy of all that and goes there."""

    def fresh() -> Path:
        place = Path(tempfile.mkdtemp(dir=tmp_path)) / "here"
        shutil.copytree(made, place, symlinks=True)
        monkeypatch.chdir(place)
        return place

    return fresh


def answers(command: tuple[str, ...], place: Path) -> int:
    """The exit code of a command, which is held against what is allowed: it leaves alone what is outside."""
    before = snapshot(place / "outside")
    with memory.bounded():
        code = answered([*command])
    assert snapshot(place / "outside") == before
    for report in place.glob("*/**/docs/action/*-*.md"):
        assert CONTROLS.search(report.read_text()) is None
    for page in place.glob("*/**/docs/action/*.html"):
        assert page.read_text().count("</script>") == page.read_text().count("<script")
    return code


def asked(run_id: str) -> OperatorRequested:
    """A start that does not say what is to be started."""
    return OperatorRequested(run_id=run_id, request="start_run", request_id="", arguments={})


@thoroughly
@example(command=("bundle", "verify", HERE), messages=[asked(RUN_ID), *ORDINARY[1:3]])
@example(command=("replay", HERE), messages=[*ORDINARY[:3], asked(OTHER_RUN)])
@given(command=st.sampled_from(COMMANDS), messages=histories(ORDINARY))
def story(place: Callable[[], Path], command: tuple[str, ...], messages: list[Message]) -> None:
    """One example of the next test."""
    here = place()
    events = [each for each in recorded(messages) if isinstance(each.message, Event)]
    (here / HERE / EVENTS).write_text("".join(f"{to_line(each)}\n" for each in events))
    answers(command, here)


def test_any_events_of_a_bundle_are_told_or_refused(place: Callable[[], Path], alone: None) -> None:
    story(place)


@thoroughly
@given(st.sampled_from(COMMANDS), st.integers(0), st.sampled_from(sorted(ODD)))
def entry(place: Callable[[], Path], command: tuple[str, ...], at: int, kind: str) -> None:
    """One example of the next test."""
    here = place()
    entries = sorted((here / HERE).rglob("*"))
    chosen = entries[at % len(entries)]
    shutil.rmtree(chosen) if chosen.is_dir() else chosen.unlink()
    ODD[kind](chosen, here / "outside")
    answers(command, here)


def test_whatever_lies_in_a_bundle_nothing_outside_it_is_touched(
    place: Callable[[], Path], alone: None
) -> None:
    entry(place)


STAGE = f"results/{RUN_NAME}/dynamics"


@pytest.mark.parametrize(
    ("command", "path", "kind"),
    [
        (
            ("bundle", "prune", HERE, "--yes", "--keep-last", "0"),
            f"{STAGE}/superseded/2",
            "a link to a directory outside",
        ),
        (
            ("bundle", "prune", HERE, "--yes", "--keep-last", "0"),
            f"{STAGE}/checkpoints",
            "a link to a directory outside",
        ),
        (("bundle", "verify", HERE, "--seal"), "docs/action", "a link to a directory outside"),
        (("bundle", "move", HERE, "moved"), "docs/action", "a link to a directory outside"),
        (("report", "loop", HERE), "docs/action", "a link to a directory outside"),
        (("history", "export", HERE), "Logs/history", "a link to a directory outside"),
        (("replay", HERE), EVENTS.as_posix(), "a link to a device"),
        (("events", HERE), EVENTS.as_posix(), "a pipe"),
        (("bundle", "move", HERE, "moved"), EVENTS.as_posix(), "a pipe"),
        (("diagnose", HERE), "Logs/history/dynamics/attempt_0001.csv", "a link to a device"),
    ],
)
def test_what_leads_out_of_a_bundle_is_named_and_left_alone(
    command: tuple[str, ...],
    path: str,
    kind: str,
    place: Callable[[], Path],
    alone: None,
) -> None:
    here = place()
    chosen = here / HERE / path
    shutil.rmtree(chosen) if chosen.is_dir() else chosen.unlink()
    ODD[kind](chosen, here / "outside")
    assert answers(command, here) == (3 if command[0] == "diagnose" else 2)


@thoroughly
@given(st.sampled_from(COMMANDS), st.integers(0), damages())
def damaged(place: Callable[[], Path], command: tuple[str, ...], at: int, damage: Damages) -> None:
    """One example of the next test."""
    here = place()
    files = sorted(each for each in (here / HERE).rglob("*") if each.is_file())
    chosen = files[at % len(files)]
    chosen.write_bytes(after(damage, chosen.read_bytes()))
    answers(command, here)


def test_a_bundle_with_a_damaged_file_is_read_or_refused(place: Callable[[], Path], alone: None) -> None:
    damaged(place)
