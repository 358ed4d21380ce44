"""`bundle verify` on a whole bundle, and on one in which one thing is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from services.bundles.run import EVENTS
from services.bundles.verify import seal, verify
from tests.unit.bundles.conftest import RUN_NAME, Touch, write_run
from tests.unit.gatekeeper.story import DIVERGING, Story, only

CHECKPOINTS = f"results/{RUN_NAME}/dynamics/checkpoints"
STAMP = "2026_01_02_03_04_05"


def wrong(root: Path) -> list[str]:
    return [f"{path}: {problem}" for path, problem in verify(root).faults]


def test_a_whole_bundle_has_no_faults(whole: Path) -> None:
    found = verify(whole)
    assert found.faults == []
    assert found.checkpoints == 6
    assert found.manifest is None


def replace(path: str, old: bytes, new: bytes) -> Touch:
    def touch(root: Path) -> None:
        content = (root / path).read_bytes()
        assert old in content
        (root / path).write_bytes(content.replace(old, new, 1))

    return touch


def cut(root: Path) -> None:
    (root / EVENTS).write_bytes((root / EVENTS).read_bytes() + b'{"spec')


def swap(root: Path) -> None:
    lines = (root / EVENTS).read_text().splitlines(keepends=True)
    (root / EVENTS).write_text("".join([lines[1], lines[0], *lines[2:]]))


@pytest.mark.parametrize(
    ("touch", "told"),
    [
        (lambda root: (root / EVENTS).unlink(), "cannot be read"),
        (replace(str(EVENTS), b'{"specversion"', b"specversion"), "line 1"),
        (swap, "sequence 1 comes after 2"),
        (cut, "ends in the middle of an event"),
        (lambda root: (root / "docs/action/loop.md").unlink(), "docs/action/loop.md: is missing"),
        (lambda root: (root / "docs/action/loop.md").write_text("[a](gone.png)"), "links to gone.png"),
        (lambda root: (root / f"{CHECKPOINTS}/dynamics_step_19/state.pt").unlink(), "state.pt is missing"),
        (
            lambda root: (root / f"{CHECKPOINTS}/dynamics_step_9/model_state_dict.pt").write_bytes(b"x" * 10),
            "model_state_dict.pt has only 10 bytes",
        ),
        (replace(f"{CHECKPOINTS}/dynamics_step_9/state.pt", b"w", b"x"), "state.pt: has another checksum"),
        (replace(f"{CHECKPOINTS}/dynamics_step_9/manifest.json", b"{", b"["), "is damaged"),
        (lambda root: shutil.rmtree(root / f"{CHECKPOINTS}/dynamics_step_19"), "the run needs this"),
    ],
)
def test_what_is_wrong_is_named(whole: Path, touch: Callable[[Path], object], told: str) -> None:
    touch(whole)
    assert any(told in fault for fault in wrong(whole)), wrong(whole)


def test_a_seal_holds_every_file_to_what_it_was(whole: Path) -> None:
    seal(whole, STAMP)
    (whole / "late.txt").write_text("came later")
    found = verify(whole)
    assert found.faults == []
    assert found.unlisted == 2  # with the manifest itself
    (whole / "docs/action/loop.md").write_text("# changed\n")
    assert wrong(whole) == [f"docs/action/loop.md: has another checksum (bundle-manifest-{STAMP}.txt)"]


def test_the_newest_manifest_counts(whole: Path) -> None:
    seal(whole, STAMP)
    (whole / "docs/action/loop.md").write_text("# changed\n")
    seal(whole, "2026_01_02_03_04_06")
    assert wrong(whole) == []


def test_a_sealed_checkpoint_that_nobody_needs_may_go(tmp_path: Path) -> None:
    root = write_run(tmp_path / "runs" / "20261121_120000", Story(only("dynamics")))
    (root / "given").mkdir()
    for name in ("video_tokenizer_step_99", "latent_actions_step_49"):
        (root / "given" / name).mkdir()
    seal(root, STAMP)
    shutil.rmtree(root / f"{CHECKPOINTS}/dynamics_step_9")
    best = f"{CHECKPOINTS}/dynamics_step_9"
    told = [fault for fault in wrong(root) if best not in fault]
    assert told == []


def test_what_was_superseded_lies_aside(tmp_path: Path) -> None:
    story = Story(only("video_tokenizer"), {("video_tokenizer", 1): DIVERGING})
    root = write_run(tmp_path / "runs" / "20261121_120000", story)
    sheet = next((root / "results").rglob("*.png"))
    aside = sheet.parent.parent / "superseded" / "2" / "visualizations" / sheet.name
    aside.parent.mkdir(parents=True)
    sheet.rename(aside)
    assert wrong(root) == []
    aside.unlink()
    assert "is missing" in wrong(root)[0]
