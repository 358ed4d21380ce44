"""Bundles on the disk, small and odd: every kind of file that a bundle may hold."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from services.bundles.core.named import files_of
from services.bundles.run import EVENTS
from shared.bundle import Bundle
from shared.bus.journal import read_journal, to_line
from tests.unit.gatekeeper.story import RUN_ID, Story, run_spec

RUN_NAME = run_spec().run_name


def fill(root: Path) -> None:
    """All kinds of files; `outside` is beside the bundle."""
    outside = root.parent / "outside"
    outside.mkdir(parents=True, exist_ok=True)
    (outside / "kept.txt").write_text("not ours")
    (root / "wandb" / "run").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "launches").mkdir()
    (root / "a.txt").write_text("alpha")
    (root / "wandb" / "run" / "log").write_bytes(os.urandom(3000))
    (root / "launches" / "weights").write_bytes(b"w" * 5000)
    (root / "shared").hardlink_to(root / "launches" / "weights")
    (root / "wandb" / "latest").symlink_to("run")
    (root / "abroad").symlink_to(outside)
    os.utime(root / "a.txt", ns=(10**18, 10**18))
    (root / "launches").chmod(0o750)


def snapshot(root: Path) -> dict[str, str]:
    """Path -> kind and content."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"link {path.readlink()}"
        elif path.is_dir():
            found[name] = f"folder {path.stat().st_mode:o}"
        else:
            about = path.stat()
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[name] = f"file {digest} {about.st_mtime_ns} {about.st_mode:o}"
    return found


def write_checkpoint(directory: Path, content: bytes = b"w") -> Path:
    """Files as ours, with their checksums; no tensors in them."""
    directory.mkdir(parents=True)
    files = {}
    for name in ("model_state_dict.pt", "optim_state_dict.pt", "state.pt"):
        (directory / name).write_bytes(content * 2000)
        files[name] = {"sha256": hashlib.sha256(content * 2000).hexdigest(), "bytes": 2000}
    (directory / "manifest.json").write_text(json.dumps({"files": files}))
    return directory


def write_events(root: Path, story: Story) -> None:
    """A story's events; its files lie in the run's directory, not in `results/run/`."""
    lines = "".join(f"{to_line(record)}\n" for record in story.log)
    (root / EVENTS).parent.mkdir(parents=True)
    (root / EVENTS).write_text(lines.replace("results/run/", f"results/{RUN_NAME}/"))


def write_run(root: Path, story: Story) -> Path:
    """A bundle with a story's events, the files they name, and the checkpoints of its lineage."""
    bundle = Bundle(root, RUN_NAME)
    story.spec = story.spec.model_copy(update={"bundle": str(root)})
    if not story.log:
        story.play()
    write_events(root, story)
    for path in files_of(record.message for record in read_journal(root / EVENTS)):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("# a report\n" if path.endswith(".md") else path)
    for stage, steps in story.lineage.items():
        for step in steps:
            write_checkpoint(bundle.checkpoint(stage, step))  # type: ignore[arg-type]
    return root


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """The bundle of a run that passed."""
    return write_run(tmp_path / "runs" / RUN_ID, Story())


Touch = Callable[[Path], None]
