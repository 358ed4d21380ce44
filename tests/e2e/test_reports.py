"""The reports of a real run: all there, and the same when they are written again somewhere else."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

from tests.e2e.world import World

KINDS = {"loop", "git", "wandb", "retrospective", "inference"}


def reports(bundle: Path) -> dict[str, bytes]:
    """Every file under docs/action, the page too: path -> bytes."""
    folder = bundle / "docs" / "action"
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_passed_run_has_every_required_report(finished: World) -> None:
    written = finished.named("report_written")
    assert {each["report"] for each in written if each["ok"]} == KINDS
    for each in written:
        assert (finished.bundle() / each["path"]).read_text().startswith("# ")


def test_reports_are_rebuilt_byte_for_byte_in_a_moved_bundle(finished: World, tmp_path: Path) -> None:
    before = reports(finished.bundle())
    moved = tmp_path / "elsewhere"
    shutil.copytree(finished.bundle(), moved, symlinks=True)
    shutil.rmtree(moved / "docs")
    answer = json.loads(finished.run("report", str(moved), "--json").stdout)
    assert set(answer["endings"][0]["reports"]) == {*KINDS, "page"}
    after = reports(moved)
    assert set(after) == set(before)
    assert [name for name in before if before[name] != after[name]] == []
    assert not [path for path in (finished.directory / "home").rglob("*") if path.is_file()]


def test_every_link_of_every_report_of_a_moved_bundle_leads_somewhere(
    finished: World, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(finished.bundle(), moved, symlinks=True)
    found = 0
    for report in (moved / "docs" / "action").glob("*.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", report.read_text()):
            if "://" not in target:
                found += 1
                assert not Path(target).is_absolute(), f"{report.name}: {target}"
                assert (report.parent / unquote(target)).exists(), f"{report.name}: {target}"
    assert found > 50
