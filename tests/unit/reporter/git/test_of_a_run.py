"""The git evidence in a run's bundle, and the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli import app
from services.reporter.core.story import Outcome, tell
from services.reporter.git_evidence import write_git
from services.reporter.kinds import Request
from shared.bus.journal import to_line
from tests.unit.reporter.git.repository import Repo


@pytest.fixture
def run(log: Any, repo: Repo) -> Any:
    repo.commit("tuned", {"train.py": "Zelda\n"})
    log.begin(config={"training": {"dataset": "/data/zelda_frames.h5"}})
    spec = log.records[0].message.spec
    spec.policy["reporter"] = {"history_repo": str(repo.path)}
    log.bundle.logs.mkdir(parents=True, exist_ok=True)
    log.bundle.events.write_text("".join(to_line(record) + "\n" for record in log.records))
    return log


def request(log: Any, *, again: bool = False) -> Request:
    story = tell(log.records)
    assert story is not None
    return Request(log.bundle, story, Outcome("passed", "it passed", degraded=False), again=again)


def test_a_runs_report_is_written_again_byte_for_byte_though_the_repository_is_gone(
    run: Any, repo: Repo
) -> None:
    path = write_git(request(run))
    assert path == "docs/action/zelda-2025-git-evidence-2026_01_01_00_00_00.md"
    text = (run.bundle.root / path).read_bytes()
    assert b"1 commit of 1 commit in 2025 counts" in text
    shutil.rmtree(repo.path)
    (run.bundle.root / path).unlink()
    assert write_git(request(run, again=True)) == path
    assert (run.bundle.root / path).read_bytes() == text


def test_what_was_never_asked_is_said_when_reports_are_written_again(run: Any) -> None:
    text = (run.bundle.root / write_git(request(run, again=True))).read_text()
    assert "The repository was not asked when this run ended." in text
    assert "worldloop report git RUN" in text


def test_the_command_asks_a_runs_own_question_into_its_bundle_and_others_to_stdout(
    run: Any, repo: Repo
) -> None:
    cli = CliRunner()
    found = cli.invoke(app, ["report", "git", str(run.bundle.root)])
    assert found.exit_code == 0, found.output
    assert Path(found.output.strip()).parent == run.bundle.reports
    before = Path(found.output.strip()).read_bytes()
    other = cli.invoke(app, ["report", "git", str(run.bundle.root), "--mode", "wide"])
    assert other.output.startswith("# Git evidence: zelda in 2025")
    assert Path(found.output.strip()).read_bytes() == before


def test_the_command_needs_no_run(repo: Repo, tmp_path: Path) -> None:
    repo.commit("tuned", {"train.py": "POLE_position\n"})
    words = ["report", "git", "--repo", str(repo.path), "--game", "pole"]
    document = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert (document["game"], document["report"], len(document["commits"])) == ("pole_position", None, 1)
    into = CliRunner().invoke(app, [*words, "--into", str(tmp_path / "out")])
    (written,) = (tmp_path / "out").iterdir()
    assert into.output.strip() == str(written)
    assert written.name.startswith("pole_position-2025-git-evidence-")
    nowhere = CliRunner().invoke(app, ["report", "git", "--repo", str(tmp_path), "--game", "pole"])
    assert nowhere.exit_code == 1
    assert "is no git repository" in nowhere.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--game", "?!"], "letters or digits"),
        (["--game", "zelda", "--year", "1969"], "--year 1969"),
        (["--game", "zelda", "--repo", "/no/such"], "there is no such directory"),
        ([], "--game"),
    ],
)
def test_what_cannot_be_asked_is_refused(words: list[str], said: str, tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["report", "git", *words, "--output-root", str(tmp_path)])
    assert found.exit_code != 0
    assert said in str(found.exception)
